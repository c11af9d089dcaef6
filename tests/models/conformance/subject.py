"""A variant's checkpoint with what runs it: ours and transformers' own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest

from adafv.engine import Label
from tests.models.checkpoint import Checkpoint
from tests.models.conformance.stock import Stock
from tests.models.conformance.variant import Variant
from tests.models.conftest import picture


class Subject(Checkpoint):
    """One model, loaded once."""

    def __init__(self, variant: Variant, path: Path) -> None:
        super().__init__(path)
        self.variant = variant

    @cached_property
    def stock(self) -> Stock:
        return Stock(self.variant, self.path)

    def label(self, asked: list[tuple[tuple[int, int], str]], **options: object) -> list[Label]:
        """The labels of one batch: questions about a picture of that size (height, width) each."""
        return self.converse([([size], text) for size, text in asked], **options)

    def check(self, label: Label, sizes: list[tuple[int, int]], question: str) -> None:
        """Assert that an unpruned label is what stock transformers answers. Answers of random weights repeat
        themselves, so that how sure they are says more than what they are.
        """
        expected = self.stock.generate([*map(picture, sizes)], question, label.output_tokens)
        assert label.answer == self.processing.decode(expected.ids), sizes
        assert label.output_tokens == len(expected.ids)
        assert label.prompt_tokens == expected.prompt_tokens
        assert label.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4), sizes
