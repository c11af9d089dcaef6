"""VisionZip against loops written from its definition: what is kept, and what was merged into it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adafv.pruning.visionzip import visionzip
from tests.pruning import oracle

CLEAR = 1e-4


@settings(max_examples=150, deadline=None)
@given(tokens=st.integers(1, 40), seed=st.integers(0, 9999), data=st.data())
def test_equals_the_definition_in_a_padded_batch(tokens, seed, data):
    """The first row is the sample, padded; the second a neighbour with a budget of its own."""
    keep, other = data.draw(st.integers(1, tokens)), data.draw(st.integers(1, tokens + 4))
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.randint(0, 9, (2, tokens + 4), generator=generator)
    keys = torch.randn(2, tokens + 4, 3, generator=generator)
    hidden = torch.randn(2, tokens + 4, 5, generator=generator)
    valid = torch.ones(2, tokens + 4).bool()
    valid[0, tokens:] = False
    kept, became, margin = oracle.visionzip(
        saliency[0, :tokens].tolist(), keys[0, :tokens].tolist(), hidden[0, :tokens].tolist(), keep
    )
    assume(margin > CLEAR)
    selection = visionzip(saliency.float(), keys, hidden, torch.tensor([keep, other]), valid)
    merged = selection.merged
    assert set(selection.mask[0].nonzero().flatten().tolist()) == kept
    assert int(selection.from_saliency[0]) == keep - (10 * keep + 32) // 64
    got = {int(t): row for t, row in zip(merged.targets[0], merged.hidden[0], strict=True) if t >= 0}
    assert got.keys() == became.keys()
    for target, expected in became.items():
        torch.testing.assert_close(got[target], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_papers_budgets():
    """54 dominant and 10 contextual of 64, and in proportion."""
    for keep, dominant in ((64, 54), (128, 108), (192, 162), (1, 1), (3, 3), (4, 3)):
        saliency = torch.rand(1, 300)
        assert int(visionzip(saliency, torch.rand(1, 300, 2), torch.rand(1, 300, 2), keep).from_saliency) == dominant


@pytest.mark.parametrize("keep", [1, 3, 30])
def test_nothing_is_merged_where_there_are_no_targets_or_no_others(keep):
    """Under K = 4 there is no contextual token, and at K = N no token is left to merge."""
    selection = visionzip(torch.rand(1, 30), torch.rand(1, 30, 4), torch.rand(1, 30, 4), keep)
    assert (selection.merged.targets == -1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": torch.ones(2, 3, 3)}, "keys is [2, 3, 3]"),
        ({"hidden": torch.ones(2, 4)}, "hidden [2, 4]"),
        ({"valid": torch.ones(2, 3).bool()}, "valid is [2, 3]"),
        ({"keys": torch.full((2, 4, 3), torch.nan)}, "row 0: keys is NaN or infinite"),
        ({"hidden": torch.full((2, 4, 3), torch.inf)}, "row 0: hidden is NaN or infinite"),
        ({"saliency": -torch.ones(2, 4)}, "row 0: saliency is negative"),
        ({"keep": torch.tensor([1, 5])}, "row 1: keep is over"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"saliency": torch.ones(2, 4), "keys": torch.ones(2, 4, 3), "hidden": torch.ones(2, 4, 3), "keep": 2}
    with pytest.raises(ValueError) as error:
        visionzip(**good | change)
    assert message in str(error.value)


def test_nan_in_padding_is_no_flaw():
    keys, hidden, valid = torch.rand(1, 9, 4), torch.rand(1, 9, 4), torch.ones(1, 9).bool()
    keys[0, 8], hidden[0, 8], valid[0, 8] = torch.nan, torch.nan, False
    merged = visionzip(torch.rand(1, 9), keys, hidden, 4, valid).merged
    assert int((merged.targets >= 0).sum()) == 1
    assert merged.hidden.isfinite().all()
