"""Signals of how sure an answer is, and the area under their risk-coverage curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adafv.bench.confidence import LEAD, area, asked_again, combined, compare, table
from adafv.bench.signals import SIGNALS, ContenderAnswers, DemandWatch, Recorder, Survey
from adafv.engine import EngineOptions
from adafv.models import load_adapter, load_processing
from adafv.pruning import STRATEGIES
from tests.bench.test_ablation import KEEP, cues
from tests.engine.answers import STEPS, batch, prompts_for
from tests.tiny_models import Shape, build


def test_the_area_is_the_mean_risk_over_all_coverages():
    signal, wrong = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 1.0, 0.0, 1.0])
    risks = [0, 1 / 2, 1 / 3, 2 / 4]
    value, draws = area(signal, wrong, np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 2, 0, 0]]))
    assert value == draws[0] == pytest.approx(np.mean(risks))
    assert draws[1] == pytest.approx((2 * 0 + 0 + 1 / 4) / 4) and draws[2] == 1


def test_how_many_must_be_asked_again():
    signal, wrong = np.arange(100, 0, -1.0), np.zeros(100)
    wrong[[10, 40, 60, 99]] = 1
    assert asked_again(signal, wrong, 0.98) == pytest.approx(0.4), "the last two wrong ones stand at 60 and 99"
    assert asked_again(signal, np.zeros(100), 0.98) == 0


def test_a_combination_is_fitted_on_the_other_half():
    random = np.random.default_rng(0)
    useful, noise = random.normal(size=(2, 4000))
    right = (random.random(4000) < 1 / (1 + np.exp(-2 * useful))).astype(float)
    half = np.arange(4000) % 2 == 0
    found = combined(np.stack([useful, noise], axis=1), right, half)
    assert np.corrcoef(found, useful)[0, 1] > 0.99
    assert np.polyfit(useful, found, 1)[0] == pytest.approx(2, abs=0.3)


def test_signals_that_know_all_and_nothing():
    random = np.random.default_rng(1)
    wrong = random.random(600) < 0.2
    blind = {name: random.normal(size=600) for name in SIGNALS}
    given = [blind | {LEAD: -wrong.astype(float)}, blind]
    tokens = np.ones(600)
    answers = ["no" if each else "yes" for each in wrong]
    looks = [ContenderAnswers(1.0, ["yes"] * 600, tokens, tokens, blind)]
    looks += [
        ContenderAnswers(keep, answers, tokens, tokens, signals)
        for keep, signals in zip((0.1, 0.05), given, strict=True)
    ]
    survey = Survey([str(n) for n in range(600)], [str(n // 4) for n in range(600)], [("all",)] * 600, looks)
    found = {(entry.keep, entry.signal): entry for entry in compare(survey, 0)}
    knows, not_ = found[0.1, LEAD], found[0.05, LEAD]
    assert knows.area == pytest.approx(knows.ideal) and knows.again == pytest.approx(wrong.mean() - 0.02, abs=1e-9)
    assert not_.low < wrong.mean() < not_.high and found[0.1, "length"].difference_low > 0
    assert table([*found.values()]).count("mean_logprob") == 4


def test_what_is_recorded_of_answers(tmp_path):
    """The slow way: each prompt's answer scored again, whole."""
    path = str(build(tmp_path, Shape(hidden=64)))
    adapter = load_adapter(path, load_processing(path), torch.device("cpu"), torch.float32)
    recorder, prompts = Recorder(adapter, EngineOptions(max_new_tokens=STEPS)), prompts_for(adapter)
    answers = recorder(batch(prompts), [0] * len(prompts), lambda: None, lambda: None)
    for prompt, answer, signals in zip(prompts, answers, recorder.signals, strict=True):
        with torch.inference_mode():
            said = adapter.embed(torch.tensor(answer.ids[:-1]))
            scores = adapter.model(inputs_embeds=torch.cat([prompt, said])[None]).logits[0, len(prompt) - 1 :]
        logprobs = scores.log_softmax(-1)
        chosen = logprobs.gather(1, torch.tensor(answer.ids)[:, None])
        best = logprobs[0].exp().topk(2).values
        expected = {
            "mean_logprob": chosen.mean(), "min_logprob": chosen.min(), "sum_logprob": chosen.sum(),
            "first_margin": best[0] - best[1], "entropy": (logprobs.exp() * logprobs).sum(1).mean(),
            "length": -len(answer.ids),
        }  # fmt: skip
        assert signals == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-3)


def test_the_demand_that_is_kept():
    """All of it where all is kept; of two budgets the larger keeps more; the strategy chooses as without."""
    given, rule = cues(), STRATEGIES["saliency"]
    around = torch.arange(24).expand(2, -1)[:, :, None].expand(-1, -1, 9)
    asked = given.visual[:, [3]].expand(-1, 4, -1)  # every word is about the fourth token
    given = replace(given, neighbours=around, text=asked, saliency=torch.linspace(1, 0, 24).expand(2, -1))
    watch = DemandWatch(rule)
    assert torch.equal(watch.strategy.select(given, KEEP).mask, rule.select(given, KEEP).mask)
    watch.strategy.select(given, torch.tensor([3, 3]))  # not the fourth
    watch.strategy.select(given, torch.tensor([24, 23]))
    eight, three, everything = watch.kept[:2], watch.kept[2:4], watch.kept[4:]
    assert everything == pytest.approx([1, 1])
    assert all(few < 0.5 < many < 1 for few, many in zip(three, eight, strict=True))
