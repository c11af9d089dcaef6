"""The loop against transformers' own: the same tokens and log-probabilities, one prompt at a time or many together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adafv.engine import EngineOptions, load_model
from adafv.engine.generation import Generator
from adafv.engine.sequence import Prompts
from tests.engine.answers import LENGTHS, STEPS, batch, check_draws, check_stock, prompts_for


@pytest.fixture(scope="module")
def adapter(model):
    return load_model(model, EngineOptions())[0]


@pytest.fixture(scope="module")
def prompts(adapter):
    return prompts_for(adapter)


@pytest.fixture
def config(adapter):
    """The model's generation config, to be changed; put back after."""
    model = adapter.model
    before, model.generation_config = model.generation_config, type(model.generation_config)()
    yield model.generation_config
    model.generation_config = before


def ours(adapter, prompts, seeds=None, prompt_ids=(), **options):
    generator = Generator(adapter, EngineOptions(max_new_tokens=STEPS, **options))
    return generator(batch(prompts), seeds or [0] * len(prompts), lambda: None, lambda: None, prompt_ids)


def check(adapter, prompts):
    answers = ours(adapter, prompts)
    check_stock(answers, adapter, prompts, tolerance=1e-3 / STEPS)
    return answers


def test_equals_stock(adapter, prompts, config):
    assert {answer.finish_reason for answer in check(adapter, prompts)} == {"length"}


@pytest.fixture
def ends(adapter, prompts, config):
    """Two end tokens that stop some answers at once, others later, others never."""
    answers = [answer.ids for answer in ours(adapter, prompts)]
    config.eos_token_id = [answers[0][0], answers[1][5]]
    config.pad_token_id = 0
    return config.eos_token_id


def test_answers_end_at_an_end_token(adapter, prompts, ends):
    answers = check(adapter, prompts)
    lengths = {len(answer.ids) for answer in answers}
    assert {1, 6} <= lengths, "some answers end early"
    for answer in answers:
        assert (answer.finish_reason == "stop") == (answer.ids[-1] in ends)
        assert answer.finish_reason == "stop" or len(answer.ids) == STEPS


def test_rows_that_have_ended_leave(adapter, prompts, ends, spy):
    forward = spy(type(adapter), "forward")
    answers = ours(adapter, prompts)
    asked = [call.args[1].shape[:2] for call in forward.call_args_list]
    steps = [count for count, length in asked if length == 1]
    assert steps == sorted(steps, reverse=True) and steps[-1] < len(prompts)
    assert len(steps) == max(len(answer.ids) for answer in answers) - 1, "and nothing is computed for nobody"


def test_when_all_have_ended_it_stops(adapter, prompts, config, monkeypatch):
    config.eos_token_id = list(range(adapter.model.config.text_config.vocab_size))
    monkeypatch.setattr(Generator, "_step", lambda *_: 1 / 0)
    assert {(len(answer.ids), answer.finish_reason) for answer in ours(adapter, prompts)} == {(1, "stop")}


@pytest.mark.parametrize(
    "asked", [{"repetition_penalty": 1.7}, {"suppress_tokens": [3, 5, 8]}, {"min_new_tokens": 9, "eos_token_id": 7}]
)
def test_what_a_generation_config_asks_for_is_done(adapter, prompts, config, asked):
    plain = [answer.ids for answer in ours(adapter, prompts)]
    if "suppress_tokens" in asked:
        asked = {"suppress_tokens": sorted({ids[0] for ids in plain})}
    if "eos_token_id" in asked:
        asked = asked | {"eos_token_id": plain[0][2]}
    config.update(**asked)
    answers = check(adapter, prompts)
    assert [answer.ids for answer in answers] != plain, "or it would show nothing"


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.7},
        {"min_length": 7, "eos_token_id": 7},
        {"forced_bos_token_id": 5},
        {"forced_eos_token_id": 5},
        {"begin_suppress_tokens": [3, 5], "forced_bos_token_id": 5},
        {"exponential_decay_length_penalty": [4, 3.0], "eos_token_id": 7},
        {"bad_words_ids": [[9], [3, 5]]},
    ],
)
def test_what_a_generation_config_asks_for_is_done_behind_a_prompt_of_tokens(adapter, config, asked):
    """As stock transformers does it, which counts the prompt's tokens to the answer's in some of these."""
    ids = [np.random.default_rng(row).integers(8, 150, length) for row, length in enumerate(LENGTHS)]
    prompts = [adapter.embed(torch.from_numpy(each)).detach() for each in ids]
    plain = [answer.ids for answer in ours(adapter, prompts)]
    if "eos_token_id" in asked:
        asked = asked | {"eos_token_id": plain[0][2]}
    if "begin_suppress_tokens" in asked:
        asked = asked | {"begin_suppress_tokens": sorted({each[0] for each in plain})}
    config.update(**asked)
    for prompt, answer in zip(ids, ours(adapter, prompts, prompt_ids=ids), strict=True):
        out = adapter.model.generate(torch.from_numpy(prompt)[None], max_new_tokens=STEPS)
        assert answer.ids == out[0, len(prompt) :].tolist()


def test_guidance_is_for_pictures_that_are_drawn(adapter, prompts, config):
    """Janus has it in its generation config, and its `generate` leaves it out for text."""
    plain = [answer.ids for answer in ours(adapter, prompts)]
    config.update(guidance_scale=5)
    assert [answer.ids for answer in ours(adapter, prompts)] == plain


def test_padding_and_neighbours_change_nothing(adapter, prompts, config):
    together = ours(adapter, prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = ours(adapter, [prompt])
        assert alone.ids == answer.ids and alone.mean_logprob == pytest.approx(answer.mean_logprob, abs=1e-5)


def test_a_sample_draws_the_same_in_every_batch(adapter, prompts, config):
    seeds = list(range(len(prompts)))
    options = {"temperature": 1.5, "top_p": 0.9}
    together = ours(adapter, prompts, seeds, **options)
    for prompt, seed, answer in zip(prompts, seeds, together, strict=True):
        assert ours(adapter, [prompt], [seed], **options)[0].ids == answer.ids
    others = ours(adapter, prompts, [seed + 100 for seed in seeds], **options)
    assert [answer.ids for answer in others] != [answer.ids for answer in together]


@pytest.mark.parametrize("asked", [{}, {"repetition_penalty": 1.7}])
def test_several_answers_share_a_prefill_and_are_those_of_their_seeds(adapter, prompts, config, asked, spy):
    config.update(**asked)
    count, options = 3, {"temperature": 1.5, "top_p": 0.9}
    seeds = list(range(count * len(prompts)))
    ids = [np.arange(length) for length in LENGTHS]
    plain = [ours(adapter, prompts, seeds[number::count], ids, **options) for number in range(count)]
    config.eos_token_id = [plain[0][0].ids[2], plain[1][3].ids[0]]  # so that some rows leave
    plain = [ours(adapter, prompts, seeds[number::count], ids, **options) for number in range(count)]
    forward = spy(type(adapter), "forward")
    together = ours(adapter, prompts, seeds, ids, **options)
    asked = [call.args[1].shape[:2] for call in forward.call_args_list]
    assert sum(rows for rows, length in asked if length > 1) == len(prompts), "each prompt once"
    for place, answer in enumerate(together):
        alone = plain[place % count][place // count]
        assert answer.ids == alone.ids and answer.finish_reason == alone.finish_reason
        assert answer.mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-5)
    assert len({tuple(answer.ids) for answer in together}) > len(prompts)


def test_tokens_are_drawn_as_often_as_they_are_probable(adapter, prompts, config):
    """3,000 first tokens of one prompt; those that `top_p` leaves out never come."""
    draws, temperature, top_p = 3000, 0.7, 0.6
    generator = Generator(adapter, EngineOptions(max_new_tokens=1, temperature=temperature, top_p=top_p))
    group = Prompts(
        rows=list(range(draws)),
        embeds=prompts[0].expand(draws, -1, -1),
        lengths=torch.full((draws,), len(prompts[0])),
    )
    answers = generator([group], range(draws), lambda: None, lambda: None)
    check_draws(answers, adapter, prompts[0], temperature, top_p, most=0.04)  # four standard deviations


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_not_finite_are_told_and_end_their_row_alone(adapter, prompts, config, temperature):
    sound = ours(adapter, prompts, range(len(prompts)), temperature=temperature)
    spoilt = [prompt.clone() for prompt in prompts]
    spoilt[1][-1], spoilt[4][0] = float("inf"), float("nan")
    answers = ours(adapter, spoilt, range(len(prompts)), temperature=temperature)
    for row, (answer, before) in enumerate(zip(answers, sound, strict=True)):
        assert math.isfinite(answer.mean_logprob) == (row not in (1, 4))
        assert row in (1, 4) or answer.ids == before.ids
