"""A checkpoint as the engine loads it, once, and asked."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from adafv.engine import Engine, EngineOptions, Label, Preparer
from adafv.models import Adapter, Processing, load_adapter, load_processing
from adafv.turn import Turn
from tests.models.conftest import picture


class Checkpoint:
    """The model in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def processing(self) -> Processing:
        return load_processing(str(self.path))

    @cached_property
    def adapter(self) -> Adapter:
        return load_adapter(str(self.path), self.processing, torch.device("cpu"), torch.float32)

    def converse(
        self, asked: list[tuple[list[tuple[int, int]], str]], adapter: Adapter | None = None, **options: object
    ) -> list[Label]:
        """The labels of one batch: questions about pictures of these sizes (height, width)."""
        settings = EngineOptions(**{"max_new_tokens": 6, **options})
        preparer = Preparer(self.processing, settings)
        samples = [
            preparer.converse(str(i), [*map(picture, sizes)], [Turn.asking(text, len(sizes))])
            for i, (sizes, text) in enumerate(asked)
        ]
        return Engine(adapter or self.adapter, self.processing, settings).label(samples)
