"""Matrix products on x86 CPUs, through oneDNN.

torch hands a product in float32 to MKL, which is slow on processors that aren't Intel's, and in bfloat16 to oneDNN,
which lays a layer's weights out anew at every call. Laid out beforehand, both go through oneDNN's fastest kernels.
Results differ from torch's own in the last bits, since sums are taken in another order. Everywhere else these are
torch's own products.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.internals import onednn_has_bfloat16, onednn_linear, onednn_weight

# What kernels the layout is for is chosen by the number of rows. With so many it is good from ten rows to thousands.
_ROWS = 256
_SMALL = 2**21  # multiplications below which oneDNN takes longer to begin than the product takes


def product(matrix: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """x @ matrixᵀ + bias as a function of x [..., E], for a matrix [N, E] that is used often and a bias [N]."""
    if not is_packable(matrix):
        return lambda x: F.linear(x, matrix, bias)
    laid_out = lay_out(matrix)
    return lambda x: onednn_linear(x, laid_out, bias)


def lay_out(matrix: Tensor) -> Tensor:
    """A matrix [N, E] that `is_packable`, as oneDNN's kernels read it: for operators of torch that call them."""
    return onednn_weight(matrix, _ROWS)


def products(left: Tensor, right: Tensor) -> Tensor:
    """left @ rightᵀ, [..., M, N] of [..., M, E] and [..., N, E], for matrices that aren't worth laying out."""
    is_small = left.shape[-2] * right.shape[-2] * left.shape[-1] < _SMALL
    if is_small or not is_packable(left) or left.dtype != right.dtype:
        return left @ right.transpose(-1, -2)
    out = left.new_empty(*left.shape[:-1], right.shape[-2])
    for index in np.ndindex(left.shape[:-2]):  # contiguous, or oneDNN takes a kernel that is hundreds of times as slow
        out[index] = onednn_linear(left[index].contiguous(), right[index].contiguous(), None)
    return out


def is_packable(matrix: Tensor) -> bool:
    """Whether oneDNN has kernels for products with `matrix`."""
    return has_kernels(matrix.device, matrix.dtype)


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels there: on an x86 CPU, in float32 or what it has of bfloat16."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and onednn_has_bfloat16())
