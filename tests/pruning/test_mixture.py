"""`mix` and `mix_paper` against the brute-force oracle, and everything their contract promises beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.pruning import mix, mix_paper
from tests.pruning import oracle

RULES = [pytest.param(mix, oracle.mix, id="mix"), pytest.param(mix_paper, oracle.mix_paper, id="mix_paper")]


@st.composite
def samples(draw, max_tokens=12):
    """One sample: integer cues, so that float32 sums are exact and ties are frequent, and a budget."""
    tokens = draw(st.integers(1, max_tokens))
    values = st.lists(st.integers(0, draw(st.sampled_from([1, 4, 60]))), min_size=tokens, max_size=tokens)
    return draw(values), draw(values), draw(st.integers(1, tokens))


@pytest.mark.parametrize(("rule", "slow"), RULES)
@settings(max_examples=400, deadline=None)
@given(batch=st.lists(samples(), min_size=1, max_size=5), data=st.data())
def test_equals_the_definition_in_a_padded_batch(rule, slow, batch, data):
    width = max(len(saliency) for saliency, _, _ in batch) + data.draw(st.integers(0, 3))
    cues = torch.full((2, len(batch), width), 7.0)  # padding holds plausible values: only `valid` may tell
    valid = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (saliency, similarity, _) in enumerate(batch):
        cues[0, row, : len(saliency)] = torch.tensor(saliency, dtype=torch.float32)
        cues[1, row, : len(saliency)] = torch.tensor(similarity, dtype=torch.float32)
        valid[row, : len(saliency)] = True
    selection = rule(cues[0], cues[1], torch.tensor([keep for _, _, keep in batch]), valid)
    for row, (saliency, similarity, keep) in enumerate(batch):
        kept, i, j = slow(saliency, similarity, keep)
        got = set(selection.mask[row].nonzero().flatten().tolist())
        assert (got, int(selection.from_text[row]), int(selection.from_saliency[row])) == (kept, i, j)


@settings(max_examples=25, deadline=None)
@given(sample=samples(max_tokens=70))
def test_equals_the_definition_beyond_one_block(sample):
    saliency, similarity, keep = sample
    selection = mix(torch.tensor([saliency]).float(), torch.tensor([similarity]).float(), keep)
    kept, i, j = oracle.mix(saliency, similarity, keep)
    assert set(selection.mask[0].nonzero().flatten().tolist()) == kept
    assert (int(selection.from_text[0]), int(selection.from_saliency[0])) == (i, j)
    assert set(selection.by_text[0].nonzero().flatten().tolist()) == set(oracle.order(similarity)[:i])
    assert set(selection.by_saliency[0].nonzero().flatten().tolist()) == set(oracle.order(saliency)[:j])


@settings(max_examples=100, deadline=None)
@given(sample=samples(max_tokens=64), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_keeps_exactly_k_in_every_dtype(sample, dtype):
    saliency, similarity, keep = sample
    selection = mix(torch.tensor([saliency], dtype=dtype), torch.tensor([similarity], dtype=dtype), keep)
    assert int(selection.mask.sum()) == keep


def test_sums_in_float32_whatever_comes_in():
    """In float16 the sums overflow (65504) and every division looks alike; in float32 they don't."""
    saliency = torch.full((1, 64), 6000.0, dtype=torch.float16)
    similarity = torch.arange(64, 0, -1, dtype=torch.float16)[None] * 900
    low, high = mix(saliency, similarity, 32), mix(saliency.float(), similarity.float(), 32)
    assert torch.equal(low.mask, high.mask)
    assert low.from_text.item() == high.from_text.item()


def test_all_tokens_tied_keeps_the_first_k():
    selection = mix(torch.ones(1, 9), torch.ones(1, 9), 4)
    assert selection.mask[0].tolist() == [True] * 4 + [False] * 5


def test_keep_all():
    selection = mix(torch.rand(2, 33), torch.rand(2, 33), 33)
    assert selection.mask.all()


def test_keep_one_takes_the_token_of_the_larger_product():
    """K = 1: r = 0. Only (1, j) with both cues on one token, or a pair with an empty side, whose product is 0."""
    saliency, similarity = torch.tensor([[0.1, 0.9, 0.3]]), torch.tensor([[0.2, 0.7, 0.6]])
    selection = mix(saliency, similarity, 1)
    assert selection.mask[0].tolist() == [False, True, False]
    assert (selection.from_text.item(), selection.from_saliency.item()) == (1, 1)


def test_full_overlap_is_counted_once():
    """Both cues agree on the order: the paper's rule loses the duplicates, the corrected one doesn't."""
    cue = torch.arange(16, 0, -1.0)[None]
    assert mix(cue, cue, 8).mask.sum() == 8
    assert mix(cue, cue, 8).from_text.item() == mix(cue, cue, 8).from_saliency.item() == 8
    assert mix_paper(cue, cue, 8).mask.sum() == 4


@pytest.mark.parametrize("peaked_cue", ["text", "saliency"])
def test_reserve_holds_for_a_cue_that_has_said_all_with_its_first_token(peaked_cue):
    """One token has all of one cue: the product would give that cue one place of twelve, the reserve gives it three."""
    peaked, flat = torch.zeros(1, 40), torch.ones(1, 40)
    peaked[0, 30], peaked[0, 31] = 1.0, 1e-6
    saliency, similarity = (flat, peaked) if peaked_cue == "text" else (peaked, flat)
    free, reserved = mix(saliency, similarity, 12, reserve=0.0), mix(saliency, similarity, 12)
    count = "from_text" if peaked_cue == "text" else "from_saliency"
    assert getattr(free, count).item() < 3
    assert getattr(reserved, count).item() >= 3
    assert reserved.mask[0, [30, 31]].all() and int(reserved.mask.sum()) == 12


@pytest.mark.parametrize("reserve", [0.0, 0.3, 0.5])
def test_reserve_is_respected(reserve):
    generator = torch.Generator().manual_seed(0)
    saliency, similarity = torch.rand(50, 40, generator=generator), torch.rand(50, 40, generator=generator) ** 8
    selection = mix(saliency, similarity, 10, reserve=reserve)
    assert (selection.mask.sum(1) == 10).all()
    assert (selection.from_text >= int(reserve * 10)).all() and (selection.from_saliency >= int(reserve * 10)).all()


def test_neighbours_change_nothing():
    generator = torch.Generator().manual_seed(1)
    saliency, similarity = torch.rand(7, 90, generator=generator), torch.rand(7, 90, generator=generator)
    keep = torch.tensor([1, 5, 9, 20, 45, 89, 90])
    together = mix(saliency, similarity, keep)
    for row in range(7):
        alone = mix(saliency[row : row + 1], similarity[row : row + 1], int(keep[row]))
        assert torch.equal(alone.mask[0], together.mask[row])


@pytest.mark.parametrize("rule", [mix, mix_paper])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "row 0: keep is under 1"),
        ({"keep": torch.tensor([2, -1])}, "row 1: keep is under 1"),
        ({"keep": 5}, "row 0: keep is over the number of valid tokens"),
        ({"keep": torch.tensor([2, 4]), "valid": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()}, "row 1: keep is"),
        ({"keep": torch.tensor([2.0, 2.0])}, "keep is torch.float32"),
        ({"keep": torch.tensor([2])}, "keep is torch.int64 [1]"),
        ({"keep": 2.5}, "keep is 2.5"),
        ({"keep": True}, "keep is True"),
        ({"saliency": torch.tensor([[1, 1, 1, 1], [1, float("nan"), 1, 1]])}, "row 1: saliency is NaN or infinite"),
        ({"similarity": torch.tensor([[1, float("inf"), 1, 1], [1, 1, 1, 1]])}, "row 0: similarity is NaN or infinite"),
        ({"saliency": torch.tensor([[1, 1, 1, -1.0], [1, 1, 1, 1]])}, "row 0: saliency is negative"),
        ({"similarity": torch.full((2, 4), -1.0)}, "row 0: similarity is negative"),
        ({"saliency": torch.ones(2, 3)}, "saliency [2, 3] and similarity [2, 4]"),
        ({"saliency": torch.ones(4), "similarity": torch.ones(4)}, "saliency [4]"),
        ({"valid": torch.ones(2, 3).bool()}, "valid is [2, 3]"),
        ({"valid": torch.ones(2, 4)}, "valid is torch.float32"),
        ({"reserve": 0.6}, "reserve is 0.6"),
        ({"reserve": -0.1}, "reserve is -0.1"),
    ],
)
def test_bad_input_is_named(rule, change, message):
    good = {"saliency": torch.ones(2, 4), "similarity": torch.ones(2, 4), "keep": 2, "valid": None}
    with pytest.raises(ValueError) as error:
        rule(**(good | change))
    assert message in str(error.value)


def test_nan_in_padding_is_no_flaw():
    saliency = torch.tensor([[1.0, 2.0, float("nan")]])
    valid = torch.tensor([[True, True, False]])
    assert mix(saliency, saliency, 1, valid).mask[0].tolist() == [False, True, False]


def test_never_waits_for_the_device():
    """On the meta device a read of a value fails, so what runs there reads none."""
    cues = torch.empty(3, 50, device="meta")
    for rule in (mix, mix_paper):
        for keep in (7, torch.tensor([1, 2, 50]), torch.empty(3, dtype=torch.int64, device="meta")):
            assert rule(cues, cues, keep).mask.shape == (3, 50)
