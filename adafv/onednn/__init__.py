"""oneDNN on x86 CPUs, where it is faster than what torch does by itself.

products     products of matrices, with weights that are laid out once
attention    softmax attention as one kernel
"""

from adafv.onednn.attention import attention, causal_attention, has_attention
from adafv.onednn.products import has_kernels, is_packable, lay_out, product, products

__all__ = [
    "attention",
    "causal_attention",
    "has_attention",
    "has_kernels",
    "is_packable",
    "lay_out",
    "product",
    "products",
]
