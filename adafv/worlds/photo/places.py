"""Where patches stand, put into what the projector makes of them.

DINOv2's features tell their places to a linear probe (R² 0.98, layer 8), what the projector makes of them after the
warm-up and hundreds of steps hardly does (0.6): the warm-up pulls all patches of a thing towards one name. Without
places the language model learns no left and right. So the projector learns to make what it makes already, and beside it
a row and a column, along two random directions that no word has.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from adafv.worlds.photo.features import SIDE, Features
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.recipes import Stage

SCALE = 0.05  # of the directions, in each dimension; tokens' deviations from their mean are about as large


def places() -> Tensor:
    """float [576, 2]: each patch's row and column, from -1 to 1."""
    along = torch.linspace(-1, 1, SIDE)
    return torch.cartesian_prod(along, along)


def directions(width: int) -> Tensor:
    """float [2, width]: what a row and a column add to a token."""
    return SCALE * torch.randn(2, width, generator=torch.Generator().manual_seed(0))


def teach_places(projector: Projector, features: Features, stage: Stage) -> float:
    """Train the projector alone; what is missing at the end, as a share of the variance of what it made before."""
    before, added = copy.deepcopy(projector), places() @ directions(projector.linear_2.out_features)
    patches = torch.cat([features[number] for number in range(stage.shards * features.shard)])
    optimizer = torch.optim.Adam(projector.parameters())
    generator = torch.Generator().manual_seed(1)
    for step in range(stage.steps):
        optimizer.param_groups[0]["lr"] = stage.projector_rate * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        chosen = torch.randint(len(patches), (stage.rows,), generator=generator)
        loss = _missing(projector, before, patches[chosen], added[chosen % len(added)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        variance = before(patches[chosen]).var(0).sum()
    return float(loss.detach() / variance)


def _missing(projector: Projector, before: Projector, patches: Tensor, added: Tensor) -> Tensor:
    """The mean squared distance from what it made before, and the places."""
    with torch.no_grad():
        wanted = before(patches) + added
    return (projector(patches) - wanted).pow(2).sum(-1).mean()
