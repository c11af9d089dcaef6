"""One row of one attention matrix, without any matrix: SDPA that also returns saliency, and keys.

Research code gets saliency with `output_attentions=True`, which turns off SDPA and FlashAttention in every layer and
materialises every layer's matrix (256 MB per crop for CLIP-L) to use one row of one of them. Here the tower runs on
SDPA; the last layer's attention module, marked by `capture`, recomputes the one row from its own query and key, and
hands out its keys when it is told to. In towers without [CLS] saliency is the mean of all rows, some at a time.

transformers makes both ends public: attention functions are looked up by name in `AttentionInterface`, and what they
return beside the output is collected under `attentions` when a model is called with `output_attentions=True`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adafv.onednn import attention, has_attention
from adafv.pruning import cls_saliency, received_saliency

_LONG = 256  # positions from which on oneDNN's attention is faster than SDPA on a CPU


class Captured(NamedTuple):
    """What the marked module returns beside its output.

    Attributes:
        saliency: float32 [B, P], the [CLS] row, or without [CLS] the mean of all rows; averaged over the heads.
        keys: float32 [B, P, D], the patches' keys, averaged over the heads; None unless `returns_keys` is set.
    """

    saliency: Tensor
    keys: Tensor | None


def sdpa_with_saliency(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    one_size: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Captured | None]:
    """As transformers' SDPA, by oneDNN where that is faster; from the marked module also what is captured.

    Args:
        one_size: whether crops are all of one size.
    """
    if attention_mask is None and query.shape[2] >= _LONG and has_attention(query.device, query.dtype):
        output = attention(query, key, value, scaling, one_size)
    else:
        kwargs.pop("output_attentions", None)  # SDPA would warn that it can't
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if not getattr(module, "returns_saliency", False):
        return output, None
    patches = key[:, :, module.leading :]
    keys = patches.float().mean(dim=1) if module.returns_keys else None
    captured = Captured((cls_saliency if module.leading else received_saliency)(query, key, scaling), keys)
    kept: Any = module.captured
    if kept is not None:
        kept.append(captured)
    return output, captured


# Without mask functions: crops have no padding, and one that makes sure of it would wait for the device.
_OF_ANY_SIZE, _OF_ONE_SIZE = "sdpa_with_saliency", "sdpa_with_saliency_of_one_size"
AttentionInterface.register(_OF_ANY_SIZE, sdpa_with_saliency)
AttentionInterface.register(_OF_ONE_SIZE, partial(sdpa_with_saliency, one_size=True))


def capture(tower: PreTrainedModel, marked: nn.Module, leading: int, one_size: bool) -> None:
    """Make `tower(pixels, output_attentions=True).attentions` hold one thing: what is `Captured` at `marked`. Where
    that module hands on nothing but its output, give it a list as `captured`: each of its calls appends to it.

    Args:
        leading: 1 if [CLS] stands before the patches, 0 if there is none.
        one_size: whether all crops are of one size.
    """
    marked.returns_saliency = True  # type: ignore[assignment]
    marked.returns_keys = False  # type: ignore[assignment]
    marked.leading = leading  # type: ignore[assignment]
    marked.captured = None  # type: ignore[assignment]
    tower.set_attn_implementation(_OF_ONE_SIZE if one_size else _OF_ANY_SIZE)
