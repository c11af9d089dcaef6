"""Every strategy keeps what its definition says, whatever stands beside the sample."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.pruning import STRATEGIES, Cues

EXACT = sorted(set(STRATEGIES) - {"none", "adafv-paper"})


def cues(rows: int, tokens: int, seed: int = 0) -> Cues:
    generator = torch.Generator().manual_seed(seed)
    return Cues(
        valid=torch.ones(rows, tokens, dtype=torch.bool),
        saliency=torch.rand(rows, tokens, generator=generator),
        similarity=torch.rand(rows, tokens, generator=generator),
        seeds=torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator),
    )


def padded(one: Cues, more: int) -> Cues:
    def widen(tensor: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, more), value=value)

    return Cues(
        valid=widen(one.valid, False),
        saliency=widen(one.saliency, 9.0),
        similarity=widen(one.similarity, 9.0),
        seeds=one.seeds,
    )


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 60), data=st.data())
def test_keeps_exactly_k(name, tokens, data):
    keep = data.draw(st.integers(1, tokens))
    selection = STRATEGIES[name].select(cues(3, tokens, data.draw(st.integers(0, 9))), keep)
    assert selection.mask.sum(1).tolist() == [keep] * 3


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_padding_and_neighbours_change_nothing(name):
    batch, keep = cues(4, 31), torch.tensor([3, 31, 1, 12])
    wide = STRATEGIES[name].select(padded(batch, 5), keep)
    assert not wide.mask[:, 31:].any()
    for row in range(4):
        one = Cues(**{f: getattr(batch, f)[row : row + 1] for f in ("valid", "saliency", "similarity", "seeds")})
        alone = STRATEGIES[name].select(one, int(keep[row]))
        assert torch.equal(alone.mask[0], wide.mask[row, :31])
        assert alone.from_text[0] == wide.from_text[row] and alone.from_saliency[0] == wide.from_saliency[row]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_needs_no_more_than_it_says(name):
    batch = cues(2, 10)
    given_cues = {need: getattr(batch, need) for need in STRATEGIES[name].needs}
    assert STRATEGIES[name].select(Cues(valid=batch.valid, **given_cues), 4).mask.shape == (2, 10)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"none", "uniform"}))
def test_a_missing_cue_is_named(name):
    with pytest.raises(ValueError, match="this strategy needs"):
        STRATEGIES[name].select(Cues(valid=torch.ones(1, 4).bool()), 2)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("keep", "message"), [(0, "keep is under 1"), (11, "keep is over")])
def test_a_budget_that_cannot_be_met_is_an_error(name, keep, message):
    with pytest.raises(ValueError, match=message):
        STRATEGIES[name].select(cues(1, 10), keep)


def test_top_of_each_cue():
    batch = Cues(
        valid=torch.ones(1, 5).bool(),
        saliency=torch.tensor([[0.1, 0.5, 0.5, 0.0, 0.5]]),
        similarity=torch.tensor([[0.9, 0.1, 0.2, 0.8, 0.3]]),
    )
    assert STRATEGIES["saliency"].select(batch, 2).mask[0].tolist() == [False, True, True, False, False]
    assert STRATEGIES["text"].select(batch, 2).mask[0].tolist() == [True, False, False, True, False]


def test_uniform_is_evenly_spread():
    kept = STRATEGIES["uniform"].select(cues(1, 100), 7).mask[0].nonzero().flatten()
    gaps = kept.diff()
    assert gaps.max() - gaps.min() <= 1
    assert abs(int(kept[0]) - (99 - int(kept[-1]))) <= 2, "the same margin at either end"


def test_random_depends_on_the_seed_and_on_nothing_else():
    batch = cues(1, 40)
    same = STRATEGIES["random"].select(batch, 9)
    again = STRATEGIES["random"].select(Cues(valid=batch.valid, seeds=batch.seeds.clone()), 9)
    other = STRATEGIES["random"].select(Cues(valid=batch.valid, seeds=batch.seeds + 1), 9)
    assert torch.equal(same.mask, again.mask)
    assert not torch.equal(same.mask, other.mask)


def test_random_is_fair():
    """Over many seeds, consecutive ones among them, each of 20 tokens is kept a quarter of the time."""
    batch = Cues(valid=torch.ones(8000, 20).bool(), seeds=torch.arange(8000))
    share = STRATEGIES["random"].select(batch, 5).mask.float().mean(0)
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 8000) ** 0.5


def test_none_keeps_all():
    batch = padded(cues(2, 6), 2)
    assert torch.equal(STRATEGIES["none"].select(batch, 1).mask, batch.valid)


def test_imports_without_transformers():
    """`adafv.pruning` needs torch only: it is the part others may want on its own."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"transformers", "ray", "PIL", "pyarrow", "boto3"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import adafv.pruning
"""
    subprocess.run([sys.executable, "-c", code], check=True)
