"""Copies from the host to where a model is."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(value: Tensor, device: torch.device) -> Tensor:
    """`value`, which lies in the host's memory, on `device`: itself where that is the CPU.

    A GPU fetches it when its queue gets there, and the host goes on at once. That takes pinned memory: from any other
    CUDA copies large tensors only when all that was queued before is done. torch keeps pinned blocks and gives them out
    again when their copies have been made, so that pinning costs next to nothing after the first batches.
    """
    return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)
