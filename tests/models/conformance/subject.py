"""A variant's checkpoint with what runs it: ours and transformers' own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest
import torch

from adafv.engine import Engine, EngineOptions, Label, Preparer
from adafv.models import Adapter, Processing, load_adapter, load_processing
from adafv.turn import Turn
from tests.models.conformance.stock import Stock
from tests.models.conformance.variant import Variant
from tests.models.conftest import picture


class Subject:
    """One model, loaded once."""

    def __init__(self, variant: Variant, path: Path) -> None:
        self.variant, self.path = variant, path

    @cached_property
    def stock(self) -> Stock:
        return Stock(self.variant, self.path)

    @cached_property
    def processing(self) -> Processing:
        return load_processing(str(self.path))

    @cached_property
    def adapter(self) -> Adapter:
        return load_adapter(str(self.path), self.processing, torch.device("cpu"), torch.float32)

    def label(self, asked: list[tuple[tuple[int, int], str]], **options: object) -> list[Label]:
        """The labels of one batch: questions about a picture of that size (height, width) each."""
        return self.converse([([size], text) for size, text in asked], **options)

    def converse(self, asked: list[tuple[list[tuple[int, int]], str]], **options: object) -> list[Label]:
        """The labels of one batch: questions about pictures of these sizes (height, width)."""
        settings = EngineOptions(**{"max_new_tokens": 6, **options})
        preparer, engine = Preparer(self.processing, settings), Engine(self.adapter, self.processing, settings)
        samples = [
            preparer.converse(str(i), [*map(picture, sizes)], [Turn.asking(text, len(sizes))])
            for i, (sizes, text) in enumerate(asked)
        ]
        return engine.label(samples)

    def check(self, label: Label, sizes: list[tuple[int, int]], question: str) -> None:
        """Assert that an unpruned label is what stock transformers answers. Answers of random weights repeat
        themselves, so that how sure they are says more than what they are.
        """
        expected = self.stock.generate([*map(picture, sizes)], question, label.output_tokens)
        assert label.answer == self.processing.decode(expected.ids), sizes
        assert label.output_tokens == len(expected.ids)
        assert label.prompt_tokens == expected.prompt_tokens
        assert label.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4), sizes
