"""Products through oneDNN are torch's own, up to rounding."""

from __future__ import annotations

import pytest
import torch

from adafv.onednn import product, products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="oneDNN's packed layout is for x86",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_one_with_or_without_kernels(dtype):
    torch.manual_seed(0)
    matrix, x = torch.randn(33, 20, dtype=dtype), torch.randn(2, 5, 20, dtype=dtype)
    torch.testing.assert_close(product(matrix)(x), x @ matrix.T)


@pytest.mark.parametrize("rows", [7, 1400])  # few, for which oneDNN isn't worth it, and many
@pytest.mark.parametrize("shape", [(40, 32), (2, 40, 32), (2, 3, 40, 32), (0, 40, 32), (2, 0, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_batches(shape, dtype, rows):
    torch.manual_seed(0)
    left, right = torch.randn(shape, dtype=dtype), torch.randn(*shape[:-2], rows, 32, dtype=dtype)
    torch.testing.assert_close(products(left, right), left @ right.transpose(-1, -2))


def test_products_of_matrices_that_are_not_contiguous():
    """Views such as heads are: oneDNN's results must not depend on it."""
    torch.manual_seed(0)
    left, right = (torch.randn(2, 260, 3, 16).transpose(1, 2) for _ in range(2))
    torch.testing.assert_close(products(left, right), left @ right.transpose(-1, -2))
