"""Attention on x86 CPUs: products, scaling, mask and softmax as one kernel, which oneDNN compiles.

On AMD's processors it takes half the time of torch's SDPA, which hands products to MKL piece by piece. On Intel's own,
which MKL is written for, it takes up to twice as long, and isn't used. torch leads to oneDNN's compiler by TorchScript
alone. A kernel is for one shape, and costs some 20 ms and 1.6 MB that are never given back: there must be
few. So queries go in blocks of few heights, and keys are filled up to a whole number of blocks. Where all calls have
the same shape, as in a vision tower for crops of one size, that shape gets a kernel of its own.

A kernel is tried before it is used, and where it fails SDPA does the work: oneDNN has been seen to get wrong results
where queries weren't laid out as keys and heads were few for the threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.hardware import is_intel
from adafv.onednn.products import has_kernels

# Takes q [B, H, M, D], k and v [B, H, N, D], scaling, and what is added before softmax [M, N]; gives [B, H, M, D].
Kernel = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]

# The height of blocks, and from which position on it is the other: low blocks fill up little where sequences are short,
# high ones make few shapes of long sequences.
_LOW, _HIGH, _LONG = 64, 256, 1024

# Masks that are kept: those of a prompt of 5,000 positions.
_MASKS = 32


def has_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's attention is worth taking: in float32, where oneDNN has kernels, and MKL isn't at home."""
    at_home = torch.backends.mkl.is_available() and is_intel()
    return dtype == torch.float32 and not at_home and has_kernels(device, dtype)


def attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, one_shape: bool = False) -> Tensor:
    """softmax(query @ keyᵀ · scaling) @ value: every position sees all others.

    Args:
        query, key, value: float32 [B, H, N, D].
        one_shape: whether nearly all calls are of the same N.

    Returns:
        [B, N, H, D].
    """
    if not one_shape:
        return _in_blocks(query, key, value, scaling, causal=False)
    rows, heads, length, width = query.shape
    # With enough heads oneDNN works out each on one thread, which is faster. Rows that have fewer share.
    shares = max(1, rows // -(-(2 * torch.get_num_threads() + 1) // heads))
    parts = zip(*(each.tensor_split(shares) for each in (query, key, value)), strict=True)
    done = (_kernel(len(q), heads, length, length, width, masked=False)(q, k, v, scaling, None) for q, k, v in parts)
    return torch.cat([each.transpose(1, 2) for each in done])


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The same where a position sees itself and those before it.

    Args:
        query: float32 [B, H, N, D].
        key, value: float32 [B, K, N, D], each for H / K heads of queries.
    """
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    return _in_blocks(query, key, value, scaling, causal=True)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool) -> Tensor:
    """One row after the other, so that its results don't depend on the others."""
    rows, heads, length, width = query.shape
    blocks = [*_blocks(length, causal)]
    filled = blocks[-1][1]
    query, key, value = (_filled(each, filled) for each in (query, key, value))
    out = query.new_empty(rows, filled, heads, width)
    for start, end in blocks:
        columns, first = (end, start) if causal else (filled, length - 1)
        mask = _unseen(end - start, columns, first, 1 if causal else 0)
        kernel = _kernel(1, heads, end - start, columns, width, masked=True)
        for row in range(rows):
            at = slice(row, row + 1)
            done = kernel(query[at, :, start:end], key[at, :, :columns], value[at, :, :columns], scaling, mask)
            out[row, start:end] = done[0].transpose(0, 1)
    return out[:, :length]


def _blocks(length: int, causal: bool) -> Iterator[tuple[int, int]]:
    """Where blocks of queries begin and end. The last may end behind the last position."""
    start = 0
    while start < length:
        end = start + (_LOW if (start if causal else length) < _LONG else _HIGH)
        yield start, end
        start = end


def _filled(x: Tensor, length: int) -> Tensor:
    """[B, H, length, D], with zeros behind what there is."""
    missing = length - x.shape[2]
    return F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, missing)).transpose(1, 2) if missing else x


@lru_cache(_MASKS)
def _unseen(rows: int, columns: int, last: int, step: int) -> Tensor:
    """float32 [rows, columns]: -inf behind the `last` column that the first row sees; the next sees `step` more."""
    unseen = torch.arange(columns) > (last + step * torch.arange(rows))[:, None]
    return torch.zeros(rows, columns).masked_fill(unseen, -torch.inf)


@lru_cache(None)
def _kernel(batch: int, heads: int, rows: int, columns: int, width: int, masked: bool) -> Kernel:
    """For q [batch, heads, rows, width] and so many `columns` of keys: SDPA, where there is no kernel that works."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, length, heads, width, generator=generator) for length in (rows, columns, columns))
    tried = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.5
    mask = _unseen(rows, columns, columns - rows, 1) if masked else None
    with torch.inference_mode():
        kernel = _compiled(*tried, mask)
        works = kernel and torch.allclose(kernel(*tried, mask), _sdpa(*tried, mask), rtol=1e-4, atol=1e-5)
    return kernel if kernel and works else _sdpa


def _compiled(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None) -> Kernel | None:
    """A kernel for such inputs; None where oneDNN makes none."""
    given = _given(q, k, v, scaling, mask)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        try:
            torch.jit.enable_onednn_fusion(True)
            traced: Any = torch.jit.trace(_formula, given, check_trace=False)
            for _ in range(3):  # the first calls are watched, and go another way
                traced(*given)
            found = "oneDNNFusionGroup" in str(traced.graph_for(*given))
        except (AttributeError, RuntimeError):  # a torch without TorchScript; or too little memory for a kernel
            return None
    return (lambda *inputs: traced(*_given(*inputs))) if found else None


def _given(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None) -> tuple[Tensor, ...]:
    inputs = _by_positions(q), _by_positions(k), _by_positions(v), torch.tensor([scaling])
    return inputs if mask is None else (*inputs, mask)


def _formula(q: Tensor, k: Tensor, v: Tensor, scale: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), v)


def _by_positions(x: Tensor) -> Tensor:
    """[B, H, N, D], laid out as [B, N, H, D]; the strides are told, since of an axis of length 1 any will do."""
    _, heads, length, width = x.shape
    strides = heads * length * width, width, heads * width, 1
    return x.transpose(1, 2).contiguous().as_strided(x.shape, strides)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
