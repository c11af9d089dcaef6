"""The language model's attention. Prefill: FlashAttention's own kernels where they are installed and the device has
them, oneDNN's on an x86 CPU, else torch's SDPA.

Prompts have no padding before them, so that prefill needs no mask. Decoding steps do; they use SDPA, but on an x86 CPU
our own (`_step`), which is faster there.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from adafv.internals import flash_attention
from adafv.onednn import causal_attention, has_attention

SDPA, ONEDNN = "sdpa", "onednn"

# The least positions, and channels of all heads, of which oneDNN's attention is faster than SDPA.
_LONG, _WIDE = 128, 256


def best_attention(device: torch.device, dtype: torch.dtype) -> str:
    """`flash_attention_3`, `flash_attention_2`, `onednn` or `sdpa`."""
    if has_attention(device, dtype):
        return ONEDNN
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return SDPA
    generation, _ = torch.cuda.get_device_capability(device)
    if generation == 9 and is_flash_attn_3_available():  # Hopper, which it is written for
        return "flash_attention_3"
    return "flash_attention_2" if generation >= 8 and is_flash_attn_2_available() else SDPA


def use_attention(language_model: PreTrainedModel, name: str) -> None:
    """Make the language model use the attention that `best_attention` names."""
    language_model.set_attn_implementation(_NAMES.get(name, name))


def place_rows_alone(language_model: nn.Module) -> None:
    """Have rotary embeddings of the kind `longrope` take a batch row by row: they choose frequencies by the furthest
    position that they are shown, and a row's must not depend on its neighbours.
    """
    for module in language_model.modules():
        kinds = getattr(module, "rope_type", None)
        if "longrope" in (kinds.values() if isinstance(kinds, dict) else [kinds]):
            module.forward = partial(_row_by_row, module.forward)


def _row_by_row(rotary: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Cosines and sines, [B, T, D] each, for positions [B, T]; of `x` [B, ...] only device and dtype matter."""
    rows = [rotary(x[:1], row, *args, **kwargs) for row in position_ids.split(1)]
    return tuple(map(torch.cat, zip(*rows, strict=True)))


def _by_onednn(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    _, heads, length, width = query.shape
    if length == 1:
        return _step(query, key, value, attention_mask, kwargs["scaling"]), None
    if attention_mask is None and length >= _LONG and heads * width >= _WIDE and value.shape[3] == width:
        return causal_attention(query, key, value, kwargs["scaling"]), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _step(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """[B, 1, H, D]: attention of one position a row, [B, H, 1, D], to keys and values [B, K, N, D] where `mask`,
    bool [B, 1, 1, N], is True.

    Both halves run at the speed of memory: keys in a product with the heads that share them as columns; values as
    weighted sums of rows of a table, which is what `embedding_bag` is for. As a product they would take twice as long.
    """
    rows, heads, _, width = query.shape
    shared, columns = key.shape[1:3]
    scores = (key @ (query * scaling).view(rows, shared, -1, width).transpose(2, 3)).transpose(2, 3)  # [B, K, H / K, N]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=3).reshape(-1, columns)
    table, apart = _table(value)
    places = _places(rows * shared, heads // shared, apart, columns)
    return F.embedding_bag(places, table, per_sample_weights=weights, mode="sum").view(rows, 1, heads, -1)


def _table(values: Tensor) -> tuple[Tensor, int]:
    """The vectors of [B, K, N, D] as rows of a table, and how many rows the first ones of two heads lie apart."""
    rows, heads, columns, width = values.shape
    apart = values.stride(1) // width
    if values.stride() != (heads * apart * width, apart * width, width, 1):
        values, apart = values.contiguous(), columns
    return values.as_strided(((rows * heads - 1) * apart + columns, width), (width, 1)), apart


@lru_cache(2)  # all layers of a step have the same
def _places(heads: int, times: int, apart: int, columns: int) -> Tensor:
    """int64 [heads · times, columns]: the rows of each head, `apart` from the next one's, that many times in a row."""
    first = apart * torch.arange(heads).repeat_interleave(times)
    return first[:, None] + torch.arange(columns)


def _by_flash(kernel: str) -> Any:
    """An attention function whose prefill is `kernel`'s."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if attention_mask is not None or query.shape[2] == 1:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return flash_attention(query, key, value, kwargs["scaling"], kernel), None

    return attend


def _register(name: str, attend: Any) -> str:
    """Make an attention function known to transformers, with SDPA's masks; `name`."""
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


# transformers would take any name with "flash" in it for one of its own.
_NAMES = {
    f"flash_attention_{generation}": _register(f"prompts_by_fa{generation}", _by_flash(f"flash_attention_{generation}"))
    for generation in (2, 3)
} | {ONEDNN: _register(ONEDNN, _by_onednn)}
