"""All private names of other libraries that the package uses. They may go with any release.

`PRIVATE_NAMES` lists them; `tests/test_internals.py` says which one is gone, and that there are no others elsewhere.
Libraries are imported where they are used: what prunes has no need of Ray, and the driver none of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TRIED = {"torch": "2.13.0", "transformers": "5.23.0", "ray": "2.60.0"}  # versions that have all of them

NOISY_LOGGERS = ("torchao", "torch.utils._pytree")


_QWEN3 = "transformers.models.qwen3_vl.modeling_qwen3_vl"
# By their paths: the function of this module, or what else in the package, that needs them.
PRIVATE_NAMES = {
    "torch.ops.mkldnn._linear_pointwise": "onednn_linear",
    "torch.ops.mkldnn._reorder_linear_weight": "onednn_weight",
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": "onednn_has_bfloat16",
    "torch.utils._pytree": "NOISY_LOGGERS",
    "transformers.GenerationMixin._prepare_special_tokens": "logits_processors",
    "transformers.GenerationMixin._get_logits_processor": "logits_processors",
    "transformers.PreTrainedModel._keys_to_ignore_on_load_unexpected": "ignoring_weights",
    "transformers.modeling_flash_attention_utils._flash_attention_forward": "flash_attention",
    f"{_QWEN3}.Qwen3VLTextModel._deepstack_process": "replace_deepstack",
    "ray.util.metrics.Counter._record": "record",
    "ray._private.state.actors": "actors",
    "ray._private.worker._global_node": "global_node",
    "ray._private.internal_api.node_stats": "object_store_bytes",
    "ray.autoscaler._private.aws.node_provider.AWSNodeProvider._create_node": "adafv.spot.SpotFirst",
}
# And what only instances have: Ray's Dataset._logical_plan (`set_last_stage_cpus`), and _raw_stream of botocore's
# StreamingBody (`read_arrived`).


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """[..., N]: `activation` of x @ weightᵀ + bias by oneDNN, for contiguous x [..., E] and a weight [N, E], which may
    be laid out by `onednn_weight`.
    """
    import torch

    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")


def onednn_weight(matrix: Tensor, rows: int) -> Tensor:
    """A weight [N, E], laid out for oneDNN's products with so many `rows`."""
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(matrix, rows)


def onednn_has_bfloat16() -> bool:
    """Whether this CPU has what oneDNN's products in bfloat16 take."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def flash_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, kernel: str) -> Tensor:
    """[B, N, H, D]: causal attention by a FlashAttention `kernel` of transformers'.

    Args:
        query: [B, H, N, D].
        key, value: [B, K, N, D], each for H / K heads of queries.
    """
    from transformers.modeling_flash_attention_utils import _flash_attention_forward

    return _flash_attention_forward(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        None,
        query_length=query.shape[2],
        is_causal=True,
        softmax_scale=scaling,
        attn_implementation=kernel,
    )


def logits_processors(model: Any, config: Any, own: Any) -> Any:
    """transformers' LogitsProcessorList for a generation `config`, with those of our `own` list before the warpers.
    They see the answer only, as with embeddings for a prompt.
    """
    model._prepare_special_tokens(config, device=model.device)
    return model._get_logits_processor(
        generation_config=config, input_ids_seq_length=0, logits_processor=own, device=model.device
    )


def ignoring_weights(model_class: Any, patterns: Sequence[str]) -> Any:
    """A transformers model class that doesn't report weights of these names as unexpected. transformers knows the
    checkpoint's names for weights only where class and module are its own, so these stay what they are.
    """
    changes = {"__module__": model_class.__module__, "_keys_to_ignore_on_load_unexpected": list(patterns)}
    return type(model_class.__name__, (model_class,), changes)


def replace_deepstack(language_model: Any, add: Callable[..., Tensor]) -> None:
    """Have Qwen3-VL's language model call `add(hidden, places, deepstack)` behind its first layers.

    Raises:
        AttributeError: this version of transformers does it another way.
    """
    if not hasattr(language_model, "_deepstack_process"):
        raise AttributeError(f"{type(language_model).__name__} has no _deepstack_process; see adafv/internals.py")
    language_model._deepstack_process = add


def set_last_stage_cpus(dataset: Any, cpus: float) -> None:
    """Have the last stage of a Ray dataset reserve so many CPUs, where Ray has no option for it."""
    dataset._logical_plan.dag.ray_remote_args["num_cpus"] = cpus


def read_arrived(body: Any, size: int) -> bytes:
    """Up to `size` bytes of an S3 answer's body as soon as there are any; none at its end. Its own `read` waits until
    all of them are there."""
    return body._raw_stream.read1(size)


def record(counter: Any, value: float, tags: Mapping[Any, str] | None) -> None:
    """Add `value` to a Ray counter, also where it is 0, which `inc` refuses."""
    counter._record(value, tags)


def actors(job: Any) -> Any:
    """What Ray knows of all actors of a job: a mapping for each. `ray.util.state` needs a dashboard for it."""
    import ray._private.state

    return ray._private.state.actors(job_id=job).values()


def global_node() -> Any:
    """The Ray node that this process has started; None if it has joined one."""
    import ray._private.worker

    return ray._private.worker._global_node


def object_store_bytes(node: Mapping[str, Any]) -> int:
    """Bytes in the object store of a node, of those that `ray.nodes()` lists; else only the dashboard has them."""
    from ray._private.internal_api import node_stats

    return node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats.object_store_bytes_used


def aws_node_provider() -> Any:
    """Ray's class that starts machines of Amazon's for its cluster launcher."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider
