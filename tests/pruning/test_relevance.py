"""Relevance to the question against loops written from the definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adafv.pruning.cues import text_cosines
from adafv.pruning.relevance import blur, focused_cosine, mean_cosine, min_max
from tests.pruning import oracle
from tests.pruning.samples import neighbours


@settings(max_examples=60, deadline=None)
@given(words=st.integers(1, 7), tokens=st.integers(1, 9), seed=st.integers(0, 999), more=st.integers(0, 3))
def test_cosines_with_the_question_by_the_definition(words, tokens, seed, more):
    """In a batch with a longer sample, so that both sides are padded."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, words + more, 5, generator=generator)
    visual = torch.randn(2, tokens + more, 5, generator=generator)
    text_valid, valid = torch.ones(2, words + more).bool(), torch.ones(2, tokens + more).bool()
    text_valid[0, words:], valid[0, tokens:] = False, False
    cosine = text_cosines(text, visual, text_valid, valid)
    exact = text[0, :words].tolist(), visual[0, :tokens].tolist()
    assume(oracle.focused_margin(*exact) > 1e-5)  # else which words are kept is up to float32
    mean, focused = mean_cosine(cosine, text_valid), focused_cosine(cosine, valid, text_valid)
    torch.testing.assert_close(mean[0, :tokens], torch.tensor(oracle.mean_cosine(*exact)), rtol=0, atol=1e-5)
    torch.testing.assert_close(focused[0, :tokens], torch.tensor(oracle.focused_cosine(*exact)), rtol=0, atol=1e-3)
    if not more:
        torch.testing.assert_close(focused_cosine(cosine, valid), focused)
        torch.testing.assert_close(mean_cosine(cosine), mean)


def test_a_word_that_fits_one_place_counts_and_one_that_fits_all_does_not():
    cosine = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.9, 0.0]]])
    assert focused_cosine(cosine, torch.ones(1, 4).bool())[0].tolist() == pytest.approx([0, 0, 0.9, 0])


@pytest.mark.parametrize("panels", [[(1, 1)], [(1, 4)], [(4, 1)], [(3, 3)], [(2, 3), (4, 2)]])
def test_blur_by_the_definition(panels):
    count = sum(rows * columns for rows, columns in panels)
    score = torch.rand(1, count, generator=torch.Generator().manual_seed(0))
    around = torch.from_numpy(neighbours(*panels))[None]
    torch.testing.assert_close(blur(score, around)[0], torch.tensor(oracle.blurred(score[0].tolist(), panels)))


def test_min_max():
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    score = torch.tensor([[2.0, 4.0, 3.0, 99.0], [5.0, 5.0, 5.0, 5.0]])
    assert min_max(score, valid).tolist() == [[0, 1, 0.5, 0], [1, 1, 1, 1]]
