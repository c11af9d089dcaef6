"""Which attention the language model reads prompts with: FlashAttention's own kernels where they are installed and the
device has them, else torch's SDPA.

Prompts have no padding before them, so that reading one needs no mask; the steps of an answer do, and these are SDPA's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_flash_attention_utils import _flash_attention_forward
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

SDPA = "sdpa"


def best_attention(device: torch.device, dtype: torch.dtype) -> str:
    """`flash_attention_3`, `flash_attention_2` or `sdpa`."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return SDPA
    generation, _ = torch.cuda.get_device_capability(device)
    if generation == 9 and is_flash_attn_3_available():  # Hopper, which it is written for
        return "flash_attention_3"
    return "flash_attention_2" if generation >= 8 and is_flash_attn_2_available() else SDPA


def read_with(language_model: PreTrainedModel, name: str) -> None:
    """Let the language model read prompts with what `best_attention` names."""
    language_model.set_attn_implementation(name if name == SDPA else _NAMES[name])


def _register(kernel: str) -> str:
    """Make an attention function known to transformers that reads by `kernel`; its name."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if attention_mask is not None or query.shape[2] == 1:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        out = _flash_attention_forward(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            None,
            query_length=query.shape[2],
            is_causal=True,
            softmax_scale=kwargs["scaling"],
            attn_implementation=kernel,
        )
        return out, None

    name = f"prompts_by_fa{kernel[-1]}"  # by "flash" in a name transformers would know its own
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


_NAMES = {kernel: _register(kernel) for kernel in ("flash_attention_2", "flash_attention_3")}
