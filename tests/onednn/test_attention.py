"""Attention through oneDNN is SDPA's, up to rounding, by kernels that are few and that were tried."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.onednn import attention, causal_attention, has_kernels

pytestmark = pytest.mark.skipif(
    not has_kernels(torch.device("cpu"), torch.float32), reason="oneDNN's kernels are for x86"
)

module = sys.modules["adafv.onednn.attention"]  # the package has a function of this name


@pytest.fixture(autouse=True)
def fresh():
    """Kernels of other tests, and of this one's patches, are forgotten."""
    module._kernel.cache_clear()
    yield
    module._kernel.cache_clear()


def _inputs(rows: int, heads: int, length: int, width: int = 16, shared: int | None = None) -> list[Tensor]:
    """As models have them: laid out by positions."""
    torch.manual_seed(0)
    return [
        torch.randn(rows, length, each, width).transpose(1, 2) for each in (heads, shared or heads, shared or heads)
    ]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool) -> Tensor:
    out = F.scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=causal, enable_gqa=True)
    return out.transpose(1, 2)


@pytest.mark.parametrize("one_shape", [True, False])
@pytest.mark.parametrize("length", [1, 64, 145, 1030])  # blocks of 64 and of 256 positions, whole ones and not
@pytest.mark.parametrize(("rows", "heads"), [(1, 1), (3, 2), (2, 9)])  # few for the threads, and many
def test_attention_is_sdpa(rows, heads, length, one_shape):
    query, key, value = _inputs(rows, heads, length)
    out = attention(query, key, value, 0.3, one_shape)
    torch.testing.assert_close(out, _sdpa(query, key, value, 0.3, causal=False))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 1024, 1300])
@pytest.mark.parametrize(("heads", "shared"), [(1, 1), (4, 2), (9, 9), (12, 3)])
def test_causal_attention_is_sdpa(heads, shared, length):
    query, key, value = _inputs(2, heads, length, shared=shared)
    out = causal_attention(query, key, value, 0.3)
    torch.testing.assert_close(out, _sdpa(query, key, value, 0.3, causal=True))


def test_inputs_may_be_laid_out_in_any_way():
    query, key, value = _inputs(2, 5, 130)
    wanted = causal_attention(query, key, value, 0.3)
    mixed = query.contiguous(), key.flip(2).flip(2), value.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(causal_attention(*mixed, 0.3), wanted)
    assert torch.equal(attention(*mixed, 0.3, True), attention(query, key, value, 0.3, True))


def test_a_row_is_the_same_bits_alone_and_among_others_and_at_every_call():
    query, key, value = _inputs(3, 5, 150)
    whole, again = (causal_attention(query, key, value, 0.3) for _ in range(2))
    assert torch.equal(whole, again)
    for row in range(3):
        alone = slice(row, row + 1)
        assert torch.equal(causal_attention(query[alone], key[alone], value[alone], 0.3), whole[alone])


@pytest.mark.parametrize("function", [attention, causal_attention])
def test_sequences_of_many_lengths_need_few_kernels(function):
    for length in range(130, 250):
        function(*_inputs(1, 2, length), 0.3)
    assert module._kernel.cache_info().currsize <= 4, "64, 128, 192 and 256 positions"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("heads", [1, 16])
def test_a_kernel_is_oneDNN_s(heads, masked):  # noqa: N802
    assert module._kernel(1, heads, 64, 128, 16, masked) is not module._sdpa


def test_a_kernel_that_is_wrong_isn_t_used(monkeypatch):
    right = module._formula
    monkeypatch.setattr(module, "_formula", lambda *inputs: right(*inputs) * 1.01)
    assert module._kernel(1, 16, 64, 128, 16, True) is module._sdpa
    query, key, value = _inputs(2, 9, 130)
    torch.testing.assert_close(causal_attention(query, key, value, 0.3), _sdpa(query, key, value, 0.3, causal=True))
    torch.testing.assert_close(attention(query, key, value, 0.3, True), _sdpa(query, key, value, 0.3, causal=False))


def test_where_oneDNN_makes_no_kernel_it_is_sdpa(monkeypatch):  # noqa: N802
    switch = torch.jit.enable_onednn_fusion
    monkeypatch.setattr(torch.jit, "enable_onednn_fusion", lambda on: switch(False))
    assert module._kernel(1, 16, 64, 128, 16, True) is module._sdpa


@pytest.mark.parametrize("failure", [AttributeError("no TorchScript"), RuntimeError("could not create a primitive")])
def test_where_making_a_kernel_fails_it_is_sdpa(monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(torch.jit, "trace", fail)
    query, key, value = _inputs(2, 9, 130)
    torch.testing.assert_close(causal_attention(query, key, value, 0.3), _sdpa(query, key, value, 0.3, causal=True))


def test_kernels_made_with_more_threads_work_with_one():
    query, key, value = _inputs(2, 5, 150)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        wanted = causal_attention(query, key, value, 0.3)
        torch.set_num_threads(1)
        assert torch.equal(causal_attention(query, key, value, 0.3), wanted)
    finally:
        torch.set_num_threads(before)
