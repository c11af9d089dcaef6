"""The selections that choose one token after the other, against loops written from their definitions."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER, Cues, adafv_plus
from adafv.pruning.adafv_plus import DEFAULT, coverage, presence, question
from adafv.pruning.cdpruner import cdpruner
from adafv.pruning.directions import Directions
from adafv.pruning.divprune import divprune
from adafv.pruning.eadp import eadp
from adafv.pruning.greedy import cosines, token_budget
from adafv.pruning.scope import scope
from tests.pruning import oracle
from tests.pruning.samples import neighbours

# Two scores nearer than this are the same to float32, and either may be chosen.
CLEAR = 1e-4


@st.composite
def samples(draw):
    """One sample: visual and text tokens, the panels that the visual ones make up, and a budget."""
    panels = draw(st.sampled_from([[(1, 1)], [(1, 5)], [(2, 2)], [(3, 3)], [(2, 2), (1, 3)], [(3, 2), (2, 3)]]))
    tokens, width = sum(rows * columns for rows, columns in panels), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    visual = torch.randn(tokens, width, generator=generator)
    text = torch.randn(draw(st.integers(1, 5)), width, generator=generator)
    saliency = torch.rand(tokens, generator=generator) * draw(st.integers(0, 1))
    return visual, text, saliency, panels, draw(st.integers(1, tokens))


def of_one(visual: torch.Tensor, text: torch.Tensor, saliency: torch.Tensor, panels: list[tuple[int, int]]) -> Cues:
    around = neighbours(*panels)
    return Cues(
        valid=torch.ones(1, len(visual)).bool(),
        visual=visual[None],
        text=text[None],
        saliency=saliency[None],
        hidden=visual[None],
        neighbours=torch.from_numpy(around)[None],
    )


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "eadp", "eadp-code", "scope", "adafv-plus"])
@settings(max_examples=150, deadline=None)
@given(sample=samples())
def test_equals_the_definition(name, sample):
    visual, text, saliency, panels, keep = sample
    exact, words = visual.tolist(), text.tolist()
    kept, margin = {
        "divprune": lambda: oracle.divprune(exact, keep),
        "cdpruner": lambda: oracle.cdpruner(exact, oracle.mean_cosine(words, exact), keep),
        "eadp": lambda: oracle.eadp(
            oracle.mean_cosine(words, exact), oracle.focused_cosine(words, exact), exact, panels, keep
        ),
        "eadp-code": lambda: oracle.eadp_code(words, exact, panels, keep),
        "scope": lambda: oracle.scope(saliency.tolist(), exact, keep),
        "adafv-plus": lambda: oracle.coverage(
            exact,
            oracle.presence(saliency.tolist()),
            oracle.question(words, exact, panels),
            keep,
        ),
    }[name]()
    assume(margin > CLEAR and (name != "eadp" or oracle.focused_margin(words, exact) > CLEAR))
    got = STRATEGIES[name].select(of_one(visual, text, saliency, panels), keep).mask[0]
    assert set(got.nonzero().flatten().tolist()) == kept


@pytest.mark.parametrize("name", sorted(WITH_TEXT_TOWER))
@settings(max_examples=100, deadline=None)
@given(sample=samples(), segments=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_with_a_text_tower_equals_the_definition(name, sample, segments, seed):
    """The further a patch lies from what the question says, in CLIP's space, the more relevant it is."""
    visual, text, saliency, panels, keep = sample
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(len(visual), 4, generator=generator)
    ends = torch.randn(segments, 4, generator=generator)
    words = torch.randn(len(text) + 1, 4, generator=generator)
    exact, away = visual.tolist(), (-patches).tolist()
    whole, focused = oracle.mean_cosine(ends.tolist(), away), oracle.focused_cosine(words.tolist(), away)
    kept, margin = {
        "cdpruner": lambda: oracle.cdpruner(exact, whole, keep),
        "eadp": lambda: oracle.eadp(whole, focused, exact, panels, keep),
    }[name]()
    assume(margin > CLEAR and (name != "eadp" or oracle.focused_margin(words.tolist(), away) > CLEAR))
    units = torch.nn.functional.normalize(ends, dim=1)
    batch = replace(
        of_one(visual, text, saliency, panels),
        clip_visual=patches[None],
        clip_text=units.mean(dim=0)[None],
        clip_words=words[None],
    )
    got = WITH_TEXT_TOWER[name].select(batch, keep).mask[0]
    assert set(got.nonzero().flatten().tolist()) == kept


def test_divprune_takes_the_lower_of_two_that_tie():
    """Tokens on the axes: 0 and 2, like 1 and 4, are opposite each other; all others are at right angles."""
    visual = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [1, 0], [0, -1]])[None]
    masks = [divprune(visual, keep).mask[0].int().tolist() for keep in (1, 2, 3, 4, 5)]
    assert masks == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]]


def test_cdpruner_takes_what_is_relevant_and_unlike_what_it_has():
    """Token 1 is as relevant as 0 and the same; 2 is half as relevant and at a right angle; 3 isn't relevant."""
    visual = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[None]
    relevance = torch.tensor([[9.0, 9.0, 6.0, 3.0]])
    order = [int((cdpruner(visual, relevance, k).mask ^ cdpruner(visual, relevance, k - 1 or 1).mask).int().argmax())
             for k in (2, 3, 4)]  # fmt: skip
    assert cdpruner(visual, relevance, 1).mask[0].tolist() == [True, False, False, False]
    assert order == [2, 3, 1], "what lies in the span of the chosen comes last"


def test_eadp_stands_in_for_the_many_before_the_odd_one():
    """Four tokens alike and one apart, all relevant: the crowd's stand-in is taken first, the odd one next."""
    visual = torch.tensor([[0.0, 1], [1, 0], [1, 0], [1, 0], [1, 0]])[None]
    alone = torch.full((1, 5, 9), -1)
    alone[:, :, 4] = torch.arange(5)
    assert eadp(visual, torch.ones(1, 5), alone, 1).mask[0].tolist() == [False, True, False, False, False]
    assert eadp(visual, torch.ones(1, 5), alone, 2).mask[0].tolist() == [True, True, False, False, False]
    assert eadp(visual, torch.tensor([[5.0, 1, 1, 1, 1]]), alone, 1).mask[0].tolist() == [True, *[False] * 4]


def test_scope_takes_the_salient_and_then_what_nothing_covers():
    """Token 0 is the most salient; 1 is like it; 2 is at a right angle, and less salient than 1."""
    hidden = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])[None]
    saliency = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    masks = [scope(hidden, saliency, keep).mask[0].int().tolist() for keep in (1, 2, 3)]
    assert masks == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]]
    with pytest.raises(ValueError, match="saliency is negative"):
        scope(hidden, -saliency, 1)


def test_eadp_keeps_track_of_many_gains():
    """300 tokens that resemble their neighbours, all as relevant: as good as when every gain is worked out anew."""
    visual = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).cumsum(dim=0)
    alone = torch.full((1, 300, 9), -1)
    alone[:, :, 4] = torch.arange(300)
    units = torch.nn.functional.normalize(visual.double(), dim=1)
    similarity = units @ units.T
    nearest = torch.full((300,), -1.0).double()
    for keep in range(1, 80):
        nearest = torch.maximum(similarity, nearest)[torch.maximum(similarity, nearest).sum(dim=1).argmax()]
        if keep % 13 == 0:
            kept = eadp(visual[None], torch.ones(1, 300), alone, keep).mask[0]
            assert float(similarity[kept].amax(dim=0).sum()) == pytest.approx(float(nearest.sum()), rel=1e-6)


def test_cosines_are_symmetric_to_the_bit():
    """Or two tokens that are each other's nearest would not tie, and the last bit would choose."""
    for tokens, width in ((31, 6), (130, 70), (577, 100)):
        got = cosines(torch.randn(2, tokens, width), torch.ones(2, tokens).bool())
        assert torch.equal(got, got.transpose(1, 2))


def test_each_thing_gets_a_token_and_what_is_asked_about_the_next():
    """Three objects of eight tokens each, none like another; the last is asked about."""
    visual = torch.eye(3).repeat_interleave(8, dim=0)[None]
    there, asked = torch.ones(1, 24), torch.tensor([0.0, 0, 1]).repeat_interleave(8)[None]
    counts = [coverage(visual, there, asked, keep).mask[0].view(3, 8).sum(dim=1).tolist() for keep in (1, 3, 4)]
    assert counts == [[0, 0, 1], [1, 1, 1], [1, 1, 2]]
    counts = [coverage(visual, there, 0 * asked, keep).mask[0].view(3, 8).sum(dim=1).tolist() for keep in (3, 6)]
    assert counts == [[1, 1, 1], [2, 2, 2]]


def test_a_larger_budget_goes_into_what_is_large():
    """An object of forty tokens and four of two: breadth at 10 %, depth at 50 %."""
    sizes = [40, 2, 2, 2, 2]
    visual, there = torch.eye(5).repeat_interleave(torch.tensor(sizes), dim=0)[None], torch.ones(1, 48)
    for keep, expected in ((5, [1, 1, 1, 1, 1]), (24, [16, 2, 2, 2, 2])):
        kept = coverage(visual, there, 0 * there, keep).mask[0]
        assert [int(part.sum()) for part in kept.split(sizes)] == expected


@settings(max_examples=150, deadline=None)
@given(tokens=st.integers(1, 40), share=st.floats(0.01, 1), crowds=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_rounds_and_blocks_equal_the_definition(tokens, share, crowds, seed):
    """In rounds of up to four tokens, and blocks of seven, so that few tokens make several of each."""
    generator = torch.Generator().manual_seed(seed)
    crowd = torch.randint(0, crowds, (tokens,), generator=generator)
    visual = torch.randn(crowds, 5, generator=generator)[crowd] + 0.4 * torch.randn(tokens, 5, generator=generator)
    there, asked = torch.rand(2, 1, tokens, generator=generator) ** 3
    keep = max(1, round(share * tokens))
    few = {"block": 7, "rounds": 3, "at_once": 4, "looked_at": 9}
    kept, margin = oracle.coverage(visual.tolist(), there[0].tolist(), asked[0].tolist(), keep, **few)
    assume(margin > CLEAR)
    with patch.multiple(adafv_plus, BLOCK=7, _ROUNDS=3, _AT_ONCE=4, _LOOKED_AT=9):
        got = coverage(visual[None], there, asked, keep)
    assert set(got.mask[0].nonzero().flatten().tolist()) == kept
    more = oracle.for_text(visual.tolist(), there[0].tolist(), asked[0].tolist(), few["block"])
    for token in kept:
        if abs(more[token]) > CLEAR:
            assert (got.by_text[0, token], got.by_saliency[0, token]) == (more[token] > 0, more[token] < 0)
    assert not (got.by_text | got.by_saliency)[~got.mask].any()


@pytest.mark.parametrize("keep", [1, 40, 149, 399, 400])
def test_a_batch_chooses_what_each_sample_does_alone(keep):
    """As on an accelerator: crowds of like tokens; a shorter sample that keeps fewer, a short one that keeps all, and
    one that is done a round before the first.
    """
    generator = torch.Generator().manual_seed(keep)
    crowd = torch.randint(0, 30, (4, 400), generator=generator)
    visual = torch.randn(30, 16, generator=generator)[crowd] + 0.3 * torch.randn(4, 400, 16, generator=generator)
    lengths, budgets = [400, 300, 10, 400], torch.tensor([keep, min(keep, 25), 10, max(1, keep - 5)])
    valid = torch.arange(400) < torch.tensor(lengths)[:, None]
    there, asked = torch.rand(2, 4, 400, generator=generator).pow(6).masked_fill(~valid, 0.0)
    together, for_text = adafv_plus._in_rounds(
        Directions.of(visual), there, asked, token_budget(visual, budgets, valid)[0], DEFAULT
    )
    assert together.sum(dim=1).tolist() == budgets.tolist()
    assert torch.equal(coverage(visual, there, asked, budgets, valid).mask, together)
    for row, (length, count) in enumerate(zip(lengths, budgets.tolist(), strict=True)):
        part = slice(row, row + 1), slice(length)
        alone = coverage(visual[part], there[part], asked[part], count)
        assert torch.equal(alone.mask, together[part])
        assert torch.equal(alone.by_text, (together & for_text)[part])


def test_nothing_is_bought_twice_however_far_apart():
    """Twenty kinds of token, of which each of several blocks holds all: one of each kind is kept."""
    kinds = torch.arange(400) % 20
    there = torch.ones(1, 400)
    kept = coverage(torch.eye(20)[kinds][None], there, 0 * there, 20).mask[0]
    assert sorted(kinds[kept].tolist()) == list(range(20))


@pytest.mark.parametrize(("words", "gate"), [([0.0, 0, 0, 0, 1], 1.0), ([0.0, 0.25, 0.5, 0.75, 1], 0.0)])
def test_a_word_that_names_nothing_has_no_say(words, gate):
    """One token stands out, or none does. No token has neighbours."""
    valid = torch.ones(1, 6).bool().index_fill(1, torch.tensor([5]), False)
    alone = torch.full((1, 6, 9), -1)
    alone[0, :, 4] = torch.arange(6)
    got = question(torch.tensor([[*words, 7.0]])[None], alone, valid)[0]
    assert got.sum().item() == pytest.approx(5 * gate) and got[5] == 0
    assert gate == 0 or got[4] > 0.99 * 5
    around = alone.clone()
    around[0, 3, 5], around[0, 4, 3] = 4, 3
    shared = question(torch.tensor([[*words, 7.0]])[None], around, valid)[0]
    assert gate == 0 or (1 < shared[3] < shared[4] < got[4])


def test_what_is_salient_is_wanted_more_and_padding_is_not():
    valid = torch.tensor([[True, True, True, False]])
    saliency = torch.tensor([[0.1, 0.3, 0.0, torch.nan]])
    assert presence(saliency, valid)[0].tolist() == pytest.approx([1 / 3 + 1, 1 / 3 + 3, 1 / 3, 0])
    assert presence(torch.zeros(1, 4), valid)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": torch.ones(2, 4)}, "visual is [2, 4]; it must be [B, N, D]"),
        ({"valid": torch.ones(2, 3).bool()}, "valid is [2, 3]; it must be [2, 4], one for each token"),
        ({"valid": torch.ones(2, 4)}, "valid is torch.float32"),
        ({"visual": torch.full((2, 4, 3), torch.nan)}, "row 0: visual is NaN or infinite"),
        ({"relevance": torch.ones(2, 3)}, "relevance is [2, 3]; it must be [2, 4], one for each token"),
        ({"relevance": torch.tensor([[1, 1, 1, 1], [1, 1, torch.inf, 1]])}, "row 1: relevance is NaN or infinite"),
        ({"neighbours": torch.zeros(2, 4, 8, dtype=torch.int64)}, "neighbours is [2, 4, 8]; it must be [B, N, 9]"),
        ({"presence": torch.ones(2, 3)}, "presence is [2, 3]; it must be [2, 4], one for each token"),
        ({"presence": torch.tensor([[1, 1, 1, 1], [1, 1, torch.nan, 1]])}, "row 1: presence is NaN or infinite"),
        ({"question": torch.tensor([[1, 1, 1, 1], [1, 1, torch.nan, 1]])}, "row 1: question is NaN or infinite"),
        ({"hidden": torch.full((2, 4, 3), torch.nan)}, "row 0: hidden is NaN or infinite"),
        ({"saliency": torch.ones(2, 3)}, "saliency is [2, 3]; it must be [2, 4], one for each token"),
        ({"keep": torch.tensor([2, 5])}, "row 1: keep is over the number of valid tokens"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"visual": torch.ones(2, 4, 3), "relevance": torch.ones(2, 4), "keep": 2, "valid": None}
    good |= {"neighbours": torch.zeros(2, 4, 9, dtype=torch.int64), "presence": torch.ones(2, 4)}
    good |= {"question": torch.ones(2, 4), "hidden": torch.ones(2, 4, 3), "saliency": torch.ones(2, 4)}
    takes = {
        divprune: ("visual",),
        cdpruner: ("visual", "relevance"),
        eadp: ("visual", "relevance", "neighbours"),
        scope: ("hidden", "saliency"),
        coverage: ("visual", "presence", "question"),
    }
    for rule, own in takes.items():
        names = {"keep", "valid", *own}
        if change.keys() <= names:
            with pytest.raises(ValueError) as error:
                rule(**{name: value for name, value in (good | change).items() if name in names})
            assert message in str(error.value)


def test_nan_in_padding_is_no_flaw():
    visual, valid = torch.randn(1, 5, 3), torch.tensor([[True] * 4 + [False]])
    visual[0, 4] = torch.nan
    relevance = torch.tensor([[1.0, 2, 3, 4, torch.nan]])
    around = torch.arange(5).view(1, 5, 1).expand(1, 5, 9)
    for selection in (
        divprune(visual, 2, valid),
        cdpruner(visual, relevance, 2, valid),
        eadp(visual, relevance, around, 2, valid),
        scope(visual, relevance, 2, valid),
        coverage(visual, relevance, relevance, 2, valid),
    ):
        assert int(selection.mask.sum()) == 2
