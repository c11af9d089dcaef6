"""LLaVA's projector, which is trained apart from the model that it becomes a part of."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """LLaVA's, under its names: two products with a GELU between. float [..., 384] -> [..., 576]"""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width_in, width_out), nn.Linear(width_out, width_out)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear_2(F.gelu(self.linear_1(features.float()))))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Make the first product begin as one of standardised features: [n, 384]. Their scales differ tenfold."""
        mean, deviation = features.float().mean(0), features.float().std(0)
        self.linear_1.weight /= deviation
        self.linear_1.bias.sub_(self.linear_1.weight @ mean)
