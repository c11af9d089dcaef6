"""Shapes for tests, built and run in a moment."""

from __future__ import annotations

import torch

from adafv.bench.shapes import Shape, Stack, Subject

CPU = torch.device("cpu")
NEXT = Shape(tower=Stack(3, 32, 64, 4), language=Stack(2, 32, 96, 4), crop=56, vocabulary=300)
PLAIN = Shape(family="llava", tower=NEXT.tower, language=NEXT.language, crop=56, vocabulary=300)


def subject(shape: Shape) -> Subject:
    """Its weights are spread further than transformers spreads them, so that tokens and scores differ enough for two
    ways to agree by more than chance.
    """
    built = Subject.build(shape, CPU, torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in built.model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(0, 1.2 / weight[0].numel() ** 0.5)
    return built
