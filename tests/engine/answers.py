"""What generators are asked in tests, and what they must answer, whichever back end they are."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch

from adafv.engine import Engine, Label, Sample
from adafv.engine.generation import Answer
from adafv.engine.sequence import Prompts, grouped

LENGTHS = [7, 30, 31, 18, 7, 55, 54, 54]
STEPS = 24


def prompts_for(adapter) -> list[torch.Tensor]:
    """Random embeddings, of prompts of `LENGTHS`."""
    generator = torch.Generator().manual_seed(0)
    width = adapter.model.get_input_embeddings().embedding_dim
    return [torch.randn(length, width, generator=generator) for length in LENGTHS]


def batch(prompts: Sequence[torch.Tensor]) -> list[Prompts]:
    """The prompts in groups, padded on the right."""
    return [
        Prompts(
            rows=rows,
            embeds=torch.nn.utils.rnn.pad_sequence([prompts[row] for row in rows], batch_first=True),
            lengths=torch.tensor([len(prompts[row]) for row in rows]),
        )
        for rows in grouped([len(prompt) for prompt in prompts], most=120)
    ]


def assembled(engine: Engine, samples: Sequence[Sample]) -> tuple[list[Label], list[Prompts]]:
    """A batch's labels, and its pruned prompts."""
    seen, assemble = [], engine._assemble
    with patch.object(engine, "_assemble", lambda *given, **more: seen.append(assemble(*given, **more)) or seen[-1]):
        return engine.label(samples), seen[0]


def check_stock(answers: Sequence[Answer], adapter, prompts: Sequence[torch.Tensor], tolerance: float) -> None:
    """Each answer is what transformers' own loop makes of the prompt. `tolerance`: of mean log-probabilities."""
    for prompt, answer in zip(prompts, answers, strict=True):
        out = adapter.model.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=STEPS,
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[0].tolist()
        assert answer.ids == tokens
        steps = [scores.log_softmax(-1)[0, token] for scores, token in zip(out.scores, tokens, strict=True)]
        assert answer.mean_logprob == pytest.approx(float(torch.stack(steps).mean()), abs=tolerance)


def check_draws(
    answers: Sequence[Answer], adapter, prompt: torch.Tensor, temperature: float, top_p: float, most: float
) -> None:
    """First tokens drawn behind one prompt come as often as they are probable, but for `most`, those that `top_p`
    leaves out never; and log-probabilities are unwarped.
    """
    with torch.inference_mode():
        scores = adapter.model(inputs_embeds=prompt[None]).logits[0, -1]
    probable = (scores / temperature).softmax(0)
    order = probable.argsort(descending=True)
    inside = order[: int((probable[order].cumsum(0) < top_p).sum()) + 1]
    wanted = probable[inside] / probable[inside].sum()
    counts = torch.bincount(torch.tensor([answer.ids[0] for answer in answers]), minlength=len(scores))
    assert int(counts[inside].sum()) == len(answers)
    assert (counts[inside] / len(answers) - wanted).abs().max() < most
    assert answers[0].mean_logprob == pytest.approx(float(scores.log_softmax(0)[answers[0].ids[0]]), abs=1e-4)
