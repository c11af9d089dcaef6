"""Where patches stand, put into what the projector makes of them.

    python -m adafv.worlds.photo.places --model photo-aligned|photo     # how well a linear probe finds them

DINOv2's features tell their places, what the projector makes of them after the warm-up hardly does: that pulls all
patches of a thing towards one name. Without places the language model learns no left and right. So the projector
learns to make what it makes already, and beside it some of the word for the place, such as "top" and "left".
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.worlds.photo.batches import Encode
from adafv.worlds.photo.cache import cache_folder
from adafv.worlds.photo.features import SIDE, Features, training_tower
from adafv.worlds.photo.model import load_trained, trained_file
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.recipes import RECIPES, Stage
from adafv.worlds.photo.scenes import TRAINING_SEEDS

WORDS = ("top", "bottom", "left", "right")
SHARE = 0.35  # of a word's embedding: about as long as tokens are far from their mean


def places() -> Tensor:
    """float [576, 2]: each patch's row and column, from -1 to 1."""
    along = torch.linspace(-1, 1, SIDE)
    return torch.cartesian_prod(along, along)


def directions(embeddings: Tensor, encode: Encode) -> Tensor:
    """float [4, width]: what the words add to a token, of the language model's embeddings [words, width]."""
    words = torch.stack([embeddings[encode(" " + word)].float().mean(0) for word in WORDS])
    return SHARE * (words - embeddings.float().mean(0))


def worded() -> Tensor:
    """float [576, 4]: how much of each of WORDS a patch is, from 0 to 1. In the middle it is nothing of any, at the
    border between the thirds that questions tell apart a half."""
    row, column = places().unbind(1)
    return (1.5 * torch.stack([-row, row, -column, column], dim=1)).clamp(0, 1)


def teach_places(projector: Projector, words: Tensor, features: Features, stage: Stage) -> float:
    """Train the projector alone to add `words`, which are directions(...); what is missing at the end, as a share of
    the variance of what it made before."""
    before, added = copy.deepcopy(projector), worded() @ words
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


def probed(tokens: Tensor, penalty: float = 100.0) -> list[float]:
    """R² of the row and of the column that ridge regression finds in tokens [S, 576, D], of the last quarter of the
    scenes after it has seen the others."""
    seen = len(tokens) * 3 // 4
    mean, deviation = tokens[:seen].mean((0, 1)), tokens[:seen].std((0, 1))
    inputs = F.pad((tokens - mean) / deviation, (0, 1), value=1.0)
    given, asked = inputs[:seen].flatten(0, 1), inputs[seen:]
    square = given.T @ given + penalty * torch.eye(given.shape[1])
    weights = torch.linalg.solve(square, given.T @ places().repeat(seen, 1))
    errors = (asked @ weights - places()).pow(2).mean((0, 1))
    return [round(float(each), 3) for each in 1 - errors / places().var(0)]


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="how well a linear probe finds patches' rows and columns: R²")
    parser.add_argument("--model", choices=RECIPES, required=True)
    parser.add_argument("--scenes", type=int, default=120)
    options = parser.parse_args(arguments)
    features = Features(cache_folder() / "features", TRAINING_SEEDS, pictures(), training_tower)
    patches = torch.stack([features[number] for number in range(options.scenes)]).float()
    trained, _ = load_trained(trained_file(options.model))
    projector = Projector(patches.shape[-1], len(trained["linear_1.bias"]))
    projector.load_state_dict(trained)
    print(f"features {probed(patches)}, behind the projector {probed(projector(patches))}")


if __name__ == "__main__":
    main()
