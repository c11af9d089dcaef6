"""A batch of prepared samples in, labels out: encode once per image, prune per question, generate.

        options = EngineOptions(strategy="adafv-plus", keep=0.1)
        preparer, engine = (part.load("llava-hf/llava-v1.6-vicuna-7b-hf", options) for part in (Preparer, Engine))
        sample = preparer.prepare("id-1", Image.open("cat.jpg").convert("RGB"), "What is the cat looking at?")
        (label,) = engine.label([sample])

    options     what can change a label
    sample      what goes in and what comes out
    prepare     images and prompt to `Sample`, on a CPU
    prompt_image  an image of a prompt, with what it is pruned by
    encoder     images to visual tokens, each image once
    pruner      the cues of each question, and the strategy's choice
    sequence    the language model's input: the prompt with the kept visual tokens in it
    padding     rows of different lengths as one tensor
    cache       the keys and values of a batch
    generation  the loop that answers: prefill in groups, then all rows take their decoding steps together
    controls    what options, the checkpoint and a grammar do to scores before a token is chosen; texts that stop
    grammar     a JSON schema or a regular expression over the model's tokens; masks: which may come next
    choices     instead of decoding: how probable each of given answers is
    flags       answers that repeat themselves, were cut off, are empty, or refuse
    vllm        the same by vLLM, the optional back end; vllm_weights: how it loads the language model only;
                vllm_positions: how it learns where Qwen2.5-VL's tokens stand;
                vllm_controls: how it learns of `controls`
    faults      too little memory: halve the batch; and errors after which a process has to end
    stopwatch   stage times without stalling the device
    engine      puts them together

Needs torch and transformers; works where Ray isn't installed. Options travel to processes that only pass tables on,
and for these torch would be 300 MB for nothing: so all but the options is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adafv.engine.options import EngineOptions

if TYPE_CHECKING:
    from adafv.engine.engine import Engine, load_model
    from adafv.engine.faults import breaks_device, is_out_of_memory
    from adafv.engine.prepare import PrepareError, Preparer
    from adafv.engine.sample import Label, Part, PreparedImage, Sample
    from adafv.models.geometry import Panel
    from adafv.turn import Turn

__all__ = [
    "Engine",
    "EngineOptions",
    "Label",
    "Panel",
    "Part",
    "PrepareError",
    "PreparedImage",
    "Preparer",
    "Sample",
    "Turn",
    "breaks_device",
    "is_out_of_memory",
    "load_model",
]

_MODULES = {
    "adafv.engine.engine": ("Engine", "load_model"),
    "adafv.engine.faults": ("breaks_device", "is_out_of_memory"),
    "adafv.engine.prepare": ("PrepareError", "Preparer"),
    "adafv.engine.sample": ("Label", "Part", "PreparedImage", "Sample"),
    "adafv.models.geometry": ("Panel",),
    "adafv.turn": ("Turn",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
