"""The other back end: vLLM's engine takes the pruned prompts, as embeddings, and answers.

Encoding and pruning stay ours, so vLLM never sees an image. It is given the language model only: its configuration as
if it were a checkpoint of its own, and its weights out of the whole checkpoint (see `vllm_weights`). vLLM's classes for
LLaVA would load the vision tower again, and want torchvision.

The engine runs in this process and we drive it step by step: what kills it kills this process, as with any other work,
and each step is a sign of life. Nothing is to be cached between batches, since no two prompts have embeddings in common
for long.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from adafv.engine.controls import Controls, Stops
from adafv.engine.generation import Answer, cut
from adafv.engine.grammar import Grammar
from adafv.engine.options import EngineOptions
from adafv.engine.sequence import Prompts
from adafv.models import Adapter, GeneralAdapter, Processing

# What vLLM takes from the environment when it starts. A job sends no usage statistics, and opens no port to others.
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOGGING_LEVEL": "ERROR"}

# Models whose positions have three dimensions, and what their language model is called by itself.
_PLACED = {"qwen2_5_vl": "qwen2"}
_COMPILED_PLACED = ("qwen2", "qwen3")  # language models that vLLM compiles for positions of several dimensions, too

# On a GPU vLLM takes so much of what the tower left free; the rest is for encoding and pruning.
_GPU_SHARE = 0.8

# On a CPU its cache holds so many whole contexts, but takes at most so much of the free memory.
_CPU_CONTEXTS, _CPU_SHARE = 16, 0.25


def check_family(processing: Processing) -> None:
    """Raise a ValueError for a model that vLLM can't run on embeddings only. Needs neither weights nor vLLM."""
    kind = processing.config.model_type
    if processing.family is GeneralAdapter:
        raise ValueError(
            f"backend 'vllm' takes models with an adapter of their own, and a {kind} model has none; give backend "
            "'transformers'"
        )
    if not processing.family.plain_positions and kind not in _PLACED:
        raise ValueError(
            f"backend 'vllm' can't add a {kind} model's deepstack features after its layers, or place its tokens in "
            "three dimensions; give backend 'transformers'"
        )


class VllmGenerator:
    """Answers batches with vLLM.

    Starting it sets variables of the process's environment, where they aren't set: VLLM_NO_USAGE_STATS, VLLM_HOST_IP
    and VLLM_LOGGING_LEVEL; and, in any case, VLLM_ENABLE_V1_MULTIPROCESSING. vLLM itself seeds the process's random
    generators, and on a CPU it takes `torch.set_num_threads` away.

    Args:
        path: the checkpoint, a folder or hub id.
        adapter: its loaded front part (see `load_adapter`), on the device that vLLM is to use.
        options: how to decode.
        processing, grammar: as for `Generator`.
        memory_share: how much of the device's free memory vLLM may take: on a GPU for the language model's weights and
            the cache of keys and values, by default 0.8; on a CPU for the cache only, by default what 16 whole
            contexts need, but at most 0.25.

    Raises:
        ValueError: vLLM isn't installed, or not for this device; it can't run the language model; with
            `tensor_parallel` above 1, scores are to be changed; or there is too little memory.
    """

    def __init__(
        self,
        path: str,
        adapter: Adapter,
        options: EngineOptions,
        processing: Processing | None = None,
        grammar: Grammar | None = None,
        memory_share: float | None = None,
    ) -> None:
        self._adapter, self._processing, self.grammar = adapter, processing, grammar
        self._decode_by(options)
        self._engine = _start(path, adapter.model, memory_share, options, self._controls.change_scores)

    def with_options(self, options: EngineOptions) -> VllmGenerator:
        """The same engine, decoding by other options."""
        other = copy.copy(self)
        other._decode_by(options)
        return other

    def _decode_by(self, options: EngineOptions) -> None:
        self._options = options
        self._controls = Controls(self._adapter, options, self._processing, self.grammar)
        if self._controls.change_scores and options.tensor_parallel > 1:
            raise ValueError(
                "with tensor_parallel above 1 vLLM's processes can't change scores here, as an option or the model's "
                "generation config asks; give tensor_parallel 1"
            )
        self._stops = None if options.stop is None else Stops(options, self._processing)

    @torch.inference_mode()
    def __call__(
        self,
        groups: Sequence[Prompts],
        seeds: Sequence[int],
        on_prefilled: Callable[[], None],
        on_step: Callable[[], None],
        prompt_ids: Sequence[np.ndarray] = (),
    ) -> list[Answer]:
        """Answer a batch. Arguments and answers as for `Generator`, but `on_prefilled` is called when the last of the
        prompts has its first token: vLLM's prefill of some prompts overlaps with the decoding of others. Several
        answers to a prompt don't share its prefill.
        """
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in seeds]
        prefilling = True
        try:
            own = self._ask(groups, seeds, prompt_ids)
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    row, (new,) = int(output.request_id), output.outputs
                    if new.finish_reason not in (None, "stop", "length"):
                        raise RuntimeError(f"vLLM ended an answer with {new.finish_reason!r}")
                    ids, logprobs = found[row]
                    for token, known in zip(new.token_ids, new.logprobs, strict=True):
                        ids.append(token)
                        logprobs.append(known[token].logprob if own is None else own[row].logprob(token))
                    if new.finish_reason is None and self._stops is not None and self._stops.length(ids) is not None:
                        self._engine.abort_request([output.request_id])
                on_step()
                if prefilling and all(ids for ids, _ in found):
                    prefilling = False
                    on_prefilled()
        finally:
            if self._engine.has_unfinished_requests():  # after an error: the next batch is to find the engine idle
                self._engine.abort_request([str(row) for row in range(len(seeds))])
        return [cut(*each, self._controls.ends, self._stops) for each in found]

    def _ask(self, groups: Sequence[Prompts], seeds: Sequence[int], prompt_ids: Sequence[np.ndarray]) -> Any:
        """Hand the prompts over. vLLM takes them on the host, and without padding. Returns each answer's
        `RequestControls`, by its place; None where scores aren't changed.
        """
        from vllm.inputs.engine import embeds_input

        each = len(seeds) // sum(len(group.rows) for group in groups)
        own: Any = None
        if self._controls.change_scores:
            from adafv.engine import vllm_controls

            own = vllm_controls.REQUESTS
            own.clear()
            for number in range(len(seeds)):
                text = prompt_ids[number // each : number // each + 1]
                own[number] = vllm_controls.RequestControls(self._controls, text)
        for group in groups:
            for row, length, prompt, ids in zip(
                group.rows, group.lengths.tolist(), group.embeds.cpu(), _position_ids(group), strict=True
            ):
                given = {} if ids is None else {"prompt_token_ids": ids, "is_token_ids": [False] * length}
                for number in range(row * each, (row + 1) * each):
                    sampling = self._sampling(seeds[number], None if own is None else number)
                    self._engine.add_request(str(number), embeds_input(prompt[:length], **given), sampling)
        return own

    def _sampling(self, seed: int, request: int | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = self._options
        drawing = {"top_p": options.top_p, "top_k": options.top_k or 0, "seed": seed % 2**63}
        return SamplingParams(
            temperature=self._options.temperature,
            **(drawing if options.temperature > 0 else {}),
            max_tokens=self._options.max_new_tokens,
            stop_token_ids=self._controls.ends,
            extra_args=None if request is None else {"adafv": request},  # for `vllm_controls`
            ignore_eos=True,  # which vLLM would take from the language model's configuration
            logprobs=0,  # of the chosen token only, before any warping
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _position_ids(group: Prompts) -> list[list[int] | None]:
    """For each prompt the ids that say where its tokens stand; None where they stand at 0, 1, 2, ..."""
    if group.positions is None or group.following is None:
        return [None] * len(group.rows)
    from adafv.engine.vllm_positions import ids_of

    positions, following = group.positions.cpu(), group.following.tolist()
    positions = positions.expand(3, *positions.shape[-2:])
    return [
        ids_of(positions[:, place, :length], following[place]) for place, length in enumerate(group.lengths.tolist())
    ]


def _start(path: str, front: Any, memory_share: float | None, options: EngineOptions, change_scores: bool) -> Any:
    """vLLM's engine, in this process, with the language model of the checkpoint, on the device and in the dtype of its
    `front` part. Spread over several GPUs, each has a process of its own. `change_scores`: see `Controls`.
    """
    device, dtype, gpus = front.device, front.dtype, options.tensor_parallel
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ValueError(
            "backend 'vllm' needs vLLM, which isn't installed: pip install 'adafv[vllm]', or see docs/vllm.md for a "
            "machine without a GPU"
        ) from error
    _check_device(device, gpus)
    text, placed = _language_model(path, device, options.positions == "kept")
    if device.type == "cpu":
        _check_head_size(text)
        share = _CPU_SHARE if memory_share is None else memory_share
        sizes: dict[str, Any] = {"kv_cache_memory_bytes": _cache_bytes(text, dtype, share), "enforce_eager": True}
    else:
        sizes = {"gpu_memory_utilization": _utilisation(device, _GPU_SHARE if memory_share is None else memory_share)}
    from adafv.engine.vllm_weights import EXTENSION, LOAD_FORMAT

    extension = EXTENSION
    if placed or change_scores:
        # vLLM's newer model runner hands a class of ours no ids, and takes no processors of scores of this kind.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if placed:
        from adafv.engine import vllm_positions

        [architecture] = text.architectures or ["?"]
        text.architectures = [vllm_positions.placed(architecture)]
        extension = f"{vllm_positions.__name__}.{vllm_positions.Extension.__name__}"
    if gpus > 1:
        # By vLLM's own processes: it would take Ray where it finds it. These don't know our load format until they
        # import it, which they do for the sake of an extension.
        spread = {"distributed_executor_backend": "mp", "worker_extension_cls": extension}
        sizes |= {"tensor_parallel_size": gpus, **spread}
    if change_scores:
        from adafv.engine.vllm_controls import Processor

        # Its default has the next step begun before this one's tokens are known.
        sizes |= {"logits_processors": [Processor], "async_scheduling": False}
    with TemporaryDirectory(prefix="adafv-") as folder:
        text.save_pretrained(folder)
        return vllm.LLMEngine.from_engine_args(
            vllm.EngineArgs(
                model=path,
                hf_config_path=folder,
                load_format=LOAD_FORMAT,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=text.max_position_embeddings,
                enable_prompt_embeds=True,
                enable_prefix_caching=False,
                skip_tokenizer_init=True,
                generation_config="vllm",  # none of its own: how to decode comes with each prompt
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **sizes,
            )
        )


def _check_device(device: torch.device, gpus: int) -> None:
    from vllm.platforms import current_platform

    if current_platform.device_type != device.type:
        found = current_platform.device_type or "a device that it doesn't find"
        raise ValueError(f"the vLLM that is installed is for {found}, and the device is {device}; see docs/vllm.md")
    if gpus > 1 and (device.type != "cuda" or torch.cuda.device_count() < gpus):
        seen = torch.cuda.device_count() if device.type == "cuda" else "none, for the device is a CPU"
        raise ValueError(f"tensor_parallel is {gpus}, and of GPUs this process sees {seen}")
    if device.index:
        raise ValueError(
            f"the device is {device}, and vLLM takes the first GPU that the process sees; set CUDA_VISIBLE_DEVICES"
        )


def _language_model(path: str, device: torch.device, kept: bool) -> tuple[PretrainedConfig, bool]:
    """The configuration of the checkpoint's language model, as a checkpoint of only that model would have it; and
    whether prompts say where their tokens stand."""
    whole = AutoConfig.from_pretrained(path, trust_remote_code=False)
    text, placed = whole.get_text_config(), kept or whole.model_type in _PLACED
    if whole.model_type in _PLACED:
        fields = {name: value for name, value in text.to_dict().items() if name != "model_type"}
        text = AutoConfig.for_model(_PLACED[whole.model_type], **fields)
    elif kept:
        text.rope_parameters = _in_three_dimensions(text, device)
    text.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]]
    text.tie_word_embeddings = whole.tie_word_embeddings  # what transformers goes by
    return text, placed


def _in_three_dimensions(text: PretrainedConfig, device: torch.device) -> dict[str, Any]:
    """The parameters of a language model's rotary embedding, for positions of three dimensions that are equal: so it
    is the same, but vLLM asks for them."""
    rope = dict(text.rope_parameters)
    if rope["rope_type"] != "default" or (device.type != "cpu" and text.model_type not in _COMPILED_PLACED):
        raise ValueError(
            f"backend 'vllm' can't keep the positions of a {text.model_type} language model with {rope['rope_type']} "
            f"rotary embeddings on {device}; give positions 'compact' or backend 'transformers'"
        )
    return rope | {"mrope_section": [_head_size(text) // 2, 0, 0]}


def _head_size(text: PretrainedConfig) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _check_head_size(text: PretrainedConfig) -> None:
    """vLLM itself would notice at the first prompt, and not say what to do."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known = CPUAttentionBackend.get_supported_head_sizes()
    if _head_size(text) not in known:
        raise ValueError(
            f"the language model's attention heads have {_head_size(text)} channels; on a CPU vLLM can only do "
            f"{', '.join(map(str, known))}; give backend 'transformers'"
        )


def _cache_bytes(text: PretrainedConfig, dtype: torch.dtype, share: float) -> int:
    """How large a cache of keys and values to have in a CPU's memory."""
    import psutil  # which vLLM brings

    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    a_token = 2 * text.num_hidden_layers * heads * _head_size(text) * dtype.itemsize
    wanted = _CPU_CONTEXTS * text.max_position_embeddings * a_token
    return min(wanted, int(share * psutil.virtual_memory().available))


def _utilisation(device: torch.device, share: float) -> float:
    """`share` of a GPU's free memory as a share of all, which is how vLLM counts."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return share * free / total
