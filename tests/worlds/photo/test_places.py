"""The projector says where patches stand, and what it said before."""

from __future__ import annotations

import copy

import torch

from adafv.worlds.photo.places import directions, places, probed, teach_places
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.recipes import Stage

STAGE = Stage(kind="places", steps=400, rows=1024, shards=1, rate=0.0, projector_rate=3e-3)


class _Scenes(list):
    """As Features. Each patch has its place among what it shows."""

    shard = 4

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shown = torch.randn(self.shard + 1, len(places()), 14, generator=generator)
        super().__init__(torch.cat([scene, places()], dim=1).bfloat16() for scene in shown)


def test_places_are_told_beside_what_was_told_before():
    torch.manual_seed(0)
    scenes, projector = _Scenes(), Projector(16, 48)
    before = copy.deepcopy(projector)
    missing = teach_places(projector, scenes, STAGE)
    with torch.no_grad():
        told, was = projector(scenes[-1]), before(scenes[-1])  # of a scene that isn't among the first
    read = (told - was) @ torch.linalg.pinv(directions(48))
    assert (read - places()).pow(2).mean() < 0.1 * places().var()
    assert missing < 0.2
    wanted = was + places() @ directions(48)
    assert (told - wanted).pow(2).sum(-1).mean() < 0.2 * was.var(0).sum()


def test_a_probe_finds_places_that_are_told():
    scenes = torch.stack(_Scenes()).float()
    assert min(probed(scenes)) > 0.99
    assert max(probed(scenes[:, :, :14])) < 0.05


def test_places_go_row_by_row():
    assert places()[0].tolist() == [-1, -1] and places()[-1].tolist() == [1, 1]
    assert places()[1].tolist()[0] == -1 and places()[1, 1] > -1
