"""Random weights under which tokens and scores differ.

At transformers' initialisation of 0.02 a small model's attention is flat and its logits nearly tied: tests that compare
selections or answers would compare noise.
"""

from __future__ import annotations

import torch
from torch import nn


def spread(model: nn.Module) -> None:
    """Draw all weights but those of norms anew, with a deviation of 1.2 / sqrt(fan in)."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name.lower():
                weight.normal_(0, 1.2 / weight[0].numel() ** 0.5)
