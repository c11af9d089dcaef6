"""Shapes for tests, built and run in a moment."""

from __future__ import annotations

import torch

from adafv.bench.shapes import Shape, Stack, Subject
from tests.random_weights import spread

CPU = torch.device("cpu")
NEXT = Shape(tower=Stack(3, 32, 64, 4), language=Stack(2, 32, 96, 4), crop=56, vocabulary=300)
PLAIN = Shape(family="llava", tower=NEXT.tower, language=NEXT.language, crop=56, vocabulary=300)


def subject(shape: Shape) -> Subject:
    """A model of that shape, with the weights of `tests.random_weights`."""
    built = Subject.build(shape, CPU, torch.float32)
    torch.manual_seed(1)
    spread(built.model)
    return built
