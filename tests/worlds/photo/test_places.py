"""The projector says where patches stand, and what it said before."""

from __future__ import annotations

import copy

import torch

from adafv.worlds.photo.places import SHARE, WORDS, directions, places, probed, teach_places, worded
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
    scenes, projector, words = _Scenes(), Projector(16, 48), 0.1 * torch.randn(4, 48)
    before = copy.deepcopy(projector)
    missing = teach_places(projector, words, scenes, STAGE)
    with torch.no_grad():
        told, was = projector(scenes[-1]), before(scenes[-1])  # of a scene that isn't among the first
    read = (told - was) @ torch.linalg.pinv(words)
    assert (read - worded()).pow(2).mean() < 0.2 * worded().var()
    assert missing < 0.2
    wanted = was + worded() @ words
    assert (told - wanted).pow(2).sum(-1).mean() < 0.2 * was.var(0).sum()


def test_words_for_places_are_those_of_answers():
    """At the thirds' borders a half: more of a word where the answer has it, less where it hasn't."""
    for (row, column), share in zip(places().tolist(), worded().tolist(), strict=True):
        there = (row < -1 / 3, row > 1 / 3, column < -1 / 3, column > 1 / 3)
        assert tuple(each > 0.5 for each in share) == there
    embeddings = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    ids = {f" {word}": [number] for number, word in enumerate(WORDS)}
    found = directions(embeddings, ids.__getitem__)
    torch.testing.assert_close(found, SHARE * (embeddings[:4] - embeddings.mean(0)))


def test_a_probe_finds_places_that_are_told():
    scenes = torch.stack(_Scenes()).float()
    assert min(probed(scenes)) > 0.99
    assert max(probed(scenes[:, :, :14])) < 0.05


def test_places_go_row_by_row():
    assert places()[0].tolist() == [-1, -1] and places()[-1].tolist() == [1, 1]
    assert places()[1].tolist()[0] == -1 and places()[1, 1] > -1
