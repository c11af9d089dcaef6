"""A batch of prepared samples in, labels out: encode once per image, prune per question, generate.

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
    grammar     a JSON schema or a regular expression over the model's tokens; masks: which may come next
    choices     instead of decoding: how probable each of given answers is
    flags       answers that repeat themselves, were cut off, are empty, or refuse
    vllm        the same by vLLM, the optional back end; vllm_weights: how it loads the language model only
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
    "Engine": "adafv.engine.engine",
    "Label": "adafv.engine.sample",
    "Panel": "adafv.models.geometry",
    "Part": "adafv.engine.sample",
    "PrepareError": "adafv.engine.prepare",
    "PreparedImage": "adafv.engine.sample",
    "Preparer": "adafv.engine.prepare",
    "Sample": "adafv.engine.sample",
    "Turn": "adafv.turn",
    "is_out_of_memory": "adafv.engine.faults",
    "breaks_device": "adafv.engine.faults",
    "load_model": "adafv.engine.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
