"""Packed weights give what plain ones give, up to rounding, and take their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adafv.packing import PackedLinear, attention, pack, product, products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="oneDNN's packed layout is for x86",
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64), (700, 64), (2, 0, 64)])
def test_equals_a_plain_layer(shape, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 33, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)
        turned = torch.randn(64, 7).T  # not contiguous
        torch.testing.assert_close(PackedLinear(linear)(turned), linear(turned), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_one_with_or_without_kernels(dtype):
    torch.manual_seed(0)
    matrix, x = torch.randn(33, 20, dtype=dtype), torch.randn(2, 5, 20, dtype=dtype)
    torch.testing.assert_close(product(matrix)(x), x @ matrix.T)


def test_every_linear_layer_is_replaced_and_tied_weights_stay_with_the_embedding():
    model = nn.ModuleDict({"words": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    model["inner"] = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model["head"].weight = model["words"].weight
    hidden = torch.randn(2, 8)
    with torch.inference_mode():
        before = model["head"](hidden), model["inner"](hidden)
        pack(model)
        assert isinstance(model["head"], PackedLinear) and isinstance(model["inner"][0], PackedLinear)
        for got, wanted in zip((model["head"](hidden), model["inner"](hidden)), before, strict=True):
            torch.testing.assert_close(got, wanted)
    assert model["words"].weight.shape == (10, 8)


def test_what_has_no_kernels_stays():
    model = nn.Sequential(nn.Linear(4, 4).double())
    pack(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("shape", [(40, 32), (2, 40, 32), (2, 3, 40, 32), (0, 40, 32), (2, 0, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_batches(shape, dtype):
    torch.manual_seed(0)
    left, right = torch.randn(shape, dtype=dtype), torch.randn(*shape[:-2], 7, 32, dtype=dtype)
    torch.testing.assert_close(products(left, right), left @ right.transpose(-1, -2))


def test_products_of_matrices_that_are_not_contiguous():
    """Views such as heads are: oneDNN's results must not depend on it."""
    torch.manual_seed(0)
    left, right = (torch.randn(2, 9, 3, 16).transpose(1, 2) for _ in range(2))
    torch.testing.assert_close(products(left, right), left @ right.transpose(-1, -2))


def test_attention_is_sdpa():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 9, 3, 16).transpose(1, 2) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(attention(query, key, value, 0.3), wanted)
    assert attention(query, key, value, 0.3).is_contiguous()
