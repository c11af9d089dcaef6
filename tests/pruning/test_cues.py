"""The two cues against loops written from their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from adafv.pruning import cls_saliency, received_saliency, text_similarity


def test_saliency_is_the_cls_row_of_the_attention_matrix():
    query, key = torch.randn(3, 4, 10, 8), torch.randn(3, 4, 10, 8)
    full = (query @ key.transpose(-1, -2) * 0.3).softmax(-1)  # [B, H, 1 + P, 1 + P]
    torch.testing.assert_close(cls_saliency(query, key, 0.3), full[:, :, 0, 1:].mean(1))


@pytest.mark.parametrize("most", [2**24, 3 * 4 * 10 * 3, 1])
def test_received_saliency_is_the_mean_row_of_the_attention_matrix(most):
    """However many rows of the matrix are there at once."""
    query, key = torch.randn(3, 4, 10, 8), torch.randn(3, 4, 10, 8)
    full = (query @ key.transpose(-1, -2) * 0.3).softmax(-1)  # [B, H, P, P]
    got = received_saliency(query, key, 0.3, most)
    torch.testing.assert_close(got, full.mean(dim=(1, 2)))
    torch.testing.assert_close(got.sum(dim=1), torch.ones(3))


def test_similarity_by_the_definition():
    text, visual = torch.randn(5, 8), torch.randn(9, 8)
    expected = [0.0] * 9
    for m in range(5):
        cosines = [100 * float(text[m] @ visual[n] / (text[m].norm() * visual[n].norm())) for n in range(9)]
        total = sum(math.exp(c - max(cosines)) for c in cosines)
        expected = [max(e, math.exp(c - max(cosines)) / total) for e, c in zip(expected, cosines, strict=True)]
    got = text_similarity(text[None], visual[None])[0]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-3, atol=1e-6)


def test_padding_of_either_side_changes_nothing():
    text, visual = torch.randn(2, 6, 8), torch.randn(2, 12, 8)
    text_valid, visual_valid = torch.ones(2, 6).bool(), torch.ones(2, 12).bool()
    text_valid[0, 4:] = False
    visual_valid[0, 7:] = False
    together = text_similarity(text, visual, text_valid, visual_valid)
    alone = text_similarity(text[:1, :4], visual[:1, :7])
    torch.testing.assert_close(together[0, :7], alone[0])
    assert (together[0, 7:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_widened_before_the_softmax(dtype):
    text, visual = torch.randn(1, 4, 64).to(dtype), torch.randn(1, 20, 64).to(dtype)
    got = text_similarity(text, visual)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, text_similarity(text.float(), visual.float()), rtol=0, atol=0)
    assert cls_saliency(visual[:, None], visual[:, None], 0.1).dtype == torch.float32


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"text \[1, 4, 8\] and visual \[1, 5, 9\]"):
        text_similarity(torch.ones(1, 4, 8), torch.ones(1, 5, 9))
    with pytest.raises(ValueError, match=r"text_valid is \[1, 3\]; it must be \[1, 4\]"):
        text_similarity(torch.ones(1, 4, 8), torch.ones(1, 5, 8), torch.ones(1, 3).bool())
