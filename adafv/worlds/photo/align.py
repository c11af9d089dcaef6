"""The warm-up: patches are pulled towards the input embeddings of the names of what they show."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.worlds.photo.batches import BACKGROUND, Encode, patch_labels, patch_names
from adafv.worlds.photo.features import Features
from adafv.worlds.photo.pictures import Pictures
from adafv.worlds.photo.projector import Projector

BACKGROUND_SHARE = 1 / 12  # of the background's patches that are looked at
TEMPERATURE = 0.07  # of similarities
DISTANCE_WEIGHT = 0.05


class Alignment:
    """Patches of scenes, and the embeddings that their projections should be near to.

    Args:
        embeddings: the language model's, [words, d].
        numbers: of the scenes.
    """

    def __init__(
        self, features: Features, numbers: range, pictures: Pictures, embeddings: Tensor, encode: Encode
    ) -> None:
        names = patch_names(pictures)
        self._things, self._middle = len(pictures.things), embeddings.float().mean(0)
        # A name's is the mean of its tokens', as they are in the middle of a sentence.
        self._targets = torch.stack([embeddings[encode(" " + name)].float().mean(0) for name in names])
        self._goals = F.normalize(self._targets - self._middle, dim=-1)
        index = {name: i for i, name in enumerate(names)}
        rng = np.random.default_rng(1)
        patches, labels = [], []
        for number in numbers:
            label = patch_labels(features.scene(number), pictures, index)
            kept = (label != index[BACKGROUND]) | (rng.random(len(label)) < BACKGROUND_SHARE)
            patches.append(features[number][torch.from_numpy(kept)])
            labels.append(torch.from_numpy(label[kept]))
        self._patches, self._labels = torch.cat(patches), torch.cat(labels)

    def loss(self, projector: Projector, rows: int, rng: np.random.Generator) -> Tensor:
        """Of so many random patches: which of all names each is nearest to, and how far from it."""
        chosen = torch.from_numpy(rng.integers(len(self._labels), size=rows))
        projected, label = projector(self._patches[chosen]), self._labels[chosen]
        distance = (projected - self._targets[label]).pow(2).sum(-1).mean()
        return F.cross_entropy(self._similarity(projected) / TEMPERATURE, label) + DISTANCE_WEIGHT * distance

    @torch.no_grad()
    def right(self, projector: Projector) -> dict[str, float]:
        """Which share of the patches is nearest to its own name: of those on things, and of the others."""
        right = (self._similarity(projector(self._patches)).argmax(-1) == self._labels).float()
        is_thing = self._labels < self._things
        return {"things": round(float(right[is_thing].mean()), 3), "others": round(float(right[~is_thing].mean()), 3)}

    def _similarity(self, projected: Tensor) -> Tensor:
        return F.normalize(projected - self._middle, dim=-1) @ self._goals.T
