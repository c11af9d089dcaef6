"""All that are tried, in the order of the matrix."""

from __future__ import annotations

from tests.models.conformance import idefics3, internvl, llava, llava_onevision, qwen
from tests.models.conformance.variant import Variant

VARIANTS: tuple[Variant, ...] = (
    *llava.VARIANTS,
    *llava_onevision.VARIANTS,
    *internvl.VARIANTS,
    *idefics3.VARIANTS,
    *qwen.VARIANTS,
)
