"""Every strategy keeps what its definition says, whatever stands beside the sample."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER, Cues
from tests.pruning.samples import cues, padded, permuted, present, rows_of

RULES = STRATEGIES | {f"{name}, text tower": rule for name, rule in WITH_TEXT_TOWER.items()}
EXACT = sorted(set(RULES) - {"none", "adafv-paper"})
HALVES = ("saliency", "similarity", "visual", "text", "keys", "hidden", "clip_visual", "clip_text", "clip_words")


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 60), data=st.data())
def test_keeps_exactly_k(name, tokens, data):
    keep = data.draw(st.integers(1, tokens))
    selection = RULES[name].select(cues(3, tokens, data.draw(st.integers(0, 9))), keep)
    assert selection.mask.sum(1).tolist() == [keep] * 3


@pytest.mark.parametrize("name", sorted(RULES))
def test_padding_and_neighbours_change_nothing(name):
    batch, keep = cues(4, 31), torch.tensor([3, 31, 1, 12])
    wide = RULES[name].select(padded(batch, 5), keep)
    assert not wide.mask[:, 31:].any()
    for row in range(4):
        alone = RULES[name].select(rows_of(batch, slice(row, row + 1)), int(keep[row]))
        assert torch.equal(alone.mask[0], wide.mask[row, :31])
        assert alone.from_text[0] == wide.from_text[row] and alone.from_saliency[0] == wide.from_saliency[row]


@pytest.mark.parametrize("name", sorted(set(RULES) - {"random", "uniform", "visionzip"}))
def test_the_order_of_the_tokens_changes_nothing(name):
    """But for ties, of which there are none here, and for what goes by places: these three."""
    batch, order = cues(3, 31), torch.randperm(31, generator=torch.Generator().manual_seed(0))
    for keep in (1, 7, 19):
        kept = RULES[name].select(batch, keep).mask
        assert torch.equal(RULES[name].select(permuted(batch, order), keep).mask, kept[:, order])


@pytest.mark.parametrize("name", sorted(set(RULES) - {"adafv-paper"}))
def test_a_budget_of_all_keeps_all(name):
    batch = padded(cues(2, 23), 4)
    assert torch.equal(RULES[name].select(batch, 23).mask, batch.valid)


@pytest.mark.parametrize("name", EXACT)
def test_a_short_sample_beside_a_long_one_keeps_all_of_its_own(name):
    """It has nothing left to choose from while the other goes on."""
    batch = cues(2, 20)
    valid = batch.valid.clone()
    valid[0, 5:] = False
    mask = RULES[name].select(replace(batch, valid=valid), torch.tensor([5, 17])).mask
    assert torch.equal(mask[0], valid[0]) and int(mask[1].sum()) == 17


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("tokens", ["alike", "zero", "few kinds"])
def test_degenerate_tokens_are_kept_exactly_k(name, tokens):
    """A blank image: all tokens the same, or nearly; whatever the rule, K of them are kept."""
    batch = cues(1, 40)
    visual = {
        "alike": torch.ones(1, 40, 6),
        "zero": torch.zeros(1, 40, 6),
        "few kinds": batch.visual[:, :3].repeat(1, 14, 1),
    }
    for keep in (1, 9, 40):
        assert int(RULES[name].select(replace(batch, visual=visual[tokens][:, :40]), keep).mask.sum()) == keep


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(name, dtype):
    low = replace(cues(2, 31), **{need: getattr(cues(2, 31), need).to(dtype) for need in HALVES})
    wide = replace(low, **{need: getattr(low, need).float() for need in HALVES})
    assert torch.equal(RULES[name].select(low, 9).mask, RULES[name].select(wide, 9).mask)


@pytest.mark.parametrize("name", sorted(RULES))
def test_never_waits_for_the_device(name):
    """On the meta device a read of a value fails, so what runs there reads none."""
    batch = cues(3, 20)
    elsewhere = Cues(**{name: tensor.to("meta") for name, tensor in present(batch).items()})
    assert RULES[name].select(elsewhere, torch.tensor([1, 7, 20])).mask.shape == (3, 20)


@pytest.mark.parametrize("name", sorted(RULES))
def test_needs_no_more_than_it_says(name):
    batch = cues(2, 10)
    given_cues = {need: getattr(batch, need) for need in RULES[name].needs}
    assert RULES[name].select(Cues(valid=batch.valid, **given_cues), 4).mask.shape == (2, 10)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"none", "uniform"}))
def test_a_missing_cue_is_named(name):
    with pytest.raises(ValueError, match=f"strategy '{name.split(',')[0]}' needs"):
        RULES[name].select(Cues(valid=torch.ones(1, 4).bool()), 2)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("keep", "message"), [(0, "keep is under 1"), (11, "keep is over")])
def test_a_budget_that_cannot_be_met_is_an_error(name, keep, message):
    with pytest.raises(ValueError, match=message):
        RULES[name].select(cues(1, 10), keep)


@pytest.mark.parametrize("name", sorted(WITH_TEXT_TOWER))
def test_with_a_text_tower_the_language_models_words_count_for_nothing(name):
    batch = cues(2, 31)
    kept = WITH_TEXT_TOWER[name].select(batch, 9).mask
    assert torch.equal(WITH_TEXT_TOWER[name].select(replace(batch, text=-batch.text), 9).mask, kept)
    assert not torch.equal(STRATEGIES[name].select(batch, 9).mask, kept)


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
