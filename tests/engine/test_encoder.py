"""Each distinct picture is encoded once, also where its questions fall into two batches, by itself or with others."""

from __future__ import annotations

import pytest
import torch

from adafv.engine import EngineOptions, Preparer, load_model
from adafv.engine.encoder import Encoder
from tests.models.conftest import picture

NEEDS = frozenset({"keys", "hidden"})
SIZES = [(64, 64), (30, 61), (97, 33), (1, 300)]


@pytest.fixture(scope="module")
def adapter(model):
    return load_model(model, EngineOptions())[0]


@pytest.fixture(scope="module")
def preparer(model):
    return Preparer.load(model, EngineOptions())


@pytest.fixture
def passes(adapter, monkeypatch):
    """How many crops went through the tower, pass by pass."""
    crops = []
    encode = type(adapter).encode
    monkeypatch.setattr(
        type(adapter), "encode", lambda self, c, **how: (crops.append(len(c)), encode(self, c, **how))[1]
    )
    return crops


def ask(preparer, *pictures: int):
    return [preparer.prepare(str(i), picture(SIZES[seed % 4], seed), f"w{i}") for i, seed in enumerate(pictures)]


@pytest.mark.parametrize("together", [False, True])
def test_the_last_picture_of_a_batch_is_known_to_the_next(adapter, preparer, passes, together):
    encoder = Encoder(adapter, NEEDS, together)
    first = encoder(ask(preparer, 0, 4), lambda: None)
    before = len(passes)
    again = encoder(ask(preparer, 4, 4), lambda: None)
    assert len(passes) == before and again[0] is again[1] and torch.equal(again[0].tokens, first[1].tokens)
    for kept in (again[0].tokens, again[0].saliency, again[0].hidden):
        assert kept.untyped_storage().nbytes() == kept.nbytes, "it would keep the whole batch"
    encoder(ask(preparer, 0), lambda: None)
    assert len(passes) == before + 1, "but only the last one"


def test_together_or_one_by_one_they_are_the_same(adapter, preparer, passes):
    samples = ask(preparer, *range(20), 3)
    alone, told = Encoder(adapter, NEEDS, together=False)(samples, lambda: None), []
    assert len(passes) == 20
    passes.clear()
    together = Encoder(adapter, NEEDS, together=True)(samples, lambda: told.append(1))
    crops = sum(len(sample.images[0].crops) for sample in samples[:20])
    assert crops > 64 and passes[:-1] == [64] * (len(passes) - 1) and passes[-1] % 16 == 0
    assert crops <= sum(passes) < crops + 16 and len(told) == len(passes)
    for one, other in zip(alone, together, strict=True):
        for name in ("tokens", "saliency", "keys", "hidden"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)
    assert together[3] is together[20]
