"""Choices are scored as asking the model about each of them in full would, and the same whoever shares the batch."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.engine import Engine, EngineOptions, PrepareError, Preparer
from adafv.engine import choices as scoring
from adafv.engine.cache import BatchCache
from adafv.engine.choices import ChoiceTree, choice_tokens
from adafv.turn import Turn
from tests.engine.answers import assembled
from tests.engine.test_engine import crowd, load
from tests.models.conftest import picture
from tests.tiny_qwen import QwenShape
from tests.tiny_qwen import build as build_qwen

CHOICES = ("w1", "w1 w2", "w1 w2 w3 w4", "w1 w5 w6", "w7", "w8 w9")
SIZES = [1, 2, 5, 12]


@pytest.fixture(scope="module")
def likely(model):
    """Beginnings of what the model answers by itself, of which some begin with others."""
    preparer, engine = load(model)
    words = [[word for word in label.answer.split() if word[0] == "w"] for label in engine.label(crowd(preparer, 12))]
    return tuple(dict.fromkeys(" ".join(each[:length]) for each in words if each for length in (1, 2, 4)))


def brute_force(engine: Engine, sample, choices) -> np.ndarray:
    """The probability of each choice, by the language model's scores behind the prompt and the whole of it."""
    adapter, processing = engine._adapter, engine._processing
    tokens = choice_tokens(processing, choices)
    with torch.inference_mode():
        _, [group] = assembled(engine, [sample])
        prompt = group.embeds[0, : int(group.lengths[0])]
        before, following = group.positions[0, : len(prompt)], int(group.following[0])
        scores = []
        for ids in tokens:
            embeds = torch.cat([prompt, adapter.embed(torch.tensor(ids))])[None]
            places = torch.cat([before, following + torch.arange(len(ids))])[None]
            out = adapter.model(inputs_embeds=embeds, position_ids=places).logits[0].double().log_softmax(-1)
            score = sum(out[len(prompt) - 1 + at, token] for at, token in enumerate(ids))
            if any(other[: len(ids)] == ids and other != ids for other in tokens):
                score = score + out[-1, adapter.model.generation_config.eos_token_id]
            scores.append(float(score))
    return torch.tensor(scores, dtype=torch.float64).softmax(0).numpy()


def test_probabilities_are_those_of_asking_in_full(model, likely):
    preparer, engine = load(model, choices=likely)
    samples = crowd(preparer, 12)
    answers = set()
    for sample, label in zip(samples, engine.label(samples), strict=True):
        expected = brute_force(engine, sample, likely)
        assert list(label.choice_probabilities) == list(likely)
        assert [*label.choice_probabilities.values()] == pytest.approx(expected, abs=1e-5)
        assert sum(label.choice_probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert label.answer == likely[expected.argmax()] and label.finish_reason == "stop"
        best, second = sorted(expected, reverse=True)[:2]
        assert label.confidence == pytest.approx(best - second, abs=1e-5)
        assert label.output_tokens == len(label.answer.split()) and label.mean_logprob < 0
        answers.add(label.answer)
    assert len(answers) > 1, "or it would show little"


@pytest.mark.parametrize("nodes", [1, 2, 3, 1024])
def test_large_trees_pass_in_chunks(model, monkeypatch, nodes):
    words = random.Random(3)
    many = {" ".join(f"w{words.randrange(6)}" for _ in range(1 + words.randrange(5))) for _ in range(60)}
    preparer, engine = load(model, choices=sorted(many))
    sample = crowd(preparer, 1)[0]
    monkeypatch.setattr(scoring, "_NODES_OF_A_ROW", nodes)
    monkeypatch.setattr(scoring, "_NODES_PER_SCORE", max(1, nodes - 1))
    [label] = engine.label([sample])
    assert [*label.choice_probabilities.values()] == pytest.approx(brute_force(engine, sample, sorted(many)), abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_neighbours_change_no_bit(model, size):
    preparer, engine = load(model, choices=CHOICES)
    samples = crowd(preparer, 24)
    alone = [engine.label([sample])[0] for sample in samples]
    order = random.Random(size).sample(range(24), 24)
    for start in range(0, 24, size):
        some = order[start : start + size]
        for row, label in zip(some, engine.label([samples[row] for row in some]), strict=True):
            assert label.choice_probabilities == alone[row].choice_probabilities
            assert (label.answer, label.confidence, label.mean_logprob) == (
                alone[row].answer,
                alone[row].confidence,
                alone[row].mean_logprob,
            )


def test_each_row_may_have_its_own(model):
    preparer, engine = load(model)
    own = [("w1", "w2 w3"), ("w4", "w4 w5", "w6"), ("w9",)]
    pictures = [picture((64, 64), number) for number in range(3)]
    samples = [
        preparer.converse(str(number), [shown], [Turn.asking("w1 w2")], choices)
        for number, (shown, choices) in enumerate(zip(pictures, own, strict=True))
    ]
    labels = engine.label(samples)
    for label, choices, shown in zip(labels, own, pictures, strict=True):
        preparer, engine = load(model, choices=choices)
        [expected] = engine.label([preparer.prepare("x", shown, "w1 w2")])
        assert label.choice_probabilities == expected.choice_probabilities and label.answer == expected.answer
    assert labels[2].choice_probabilities == {"w9": 1.0} and labels[2].confidence == 1


def test_second_looks_go_by_the_lead(model):
    preparer, once = load(model, choices=CHOICES)
    samples = crowd(preparer, 12)
    first, again = once.label(samples), load(model, choices=CHOICES, strategy="none")[1].label(samples)
    threshold = float(np.median([label.confidence for label in first]))
    _, engine = load(model, choices=CHOICES, escalate=1.0, escalate_below=threshold, audit=1.0)
    for label, one, other in zip(engine.label(samples), first, again, strict=True):
        made = other if one.confidence < threshold else one
        assert label.looks == 1 + (one.confidence < threshold)
        assert label.choice_probabilities == made.choice_probabilities and label.audit_answer == other.answer
    engine.try_out()


def test_positions_of_a_model_with_three_of_them(tmp_path):
    """Qwen's, whose text goes on behind an image's extent."""
    choices = ("w1 w2 w3", "w1 w4", "w5")
    preparer, engine = load(str(build_qwen(tmp_path, QwenShape())), choices=choices, strategy="none")
    sample = preparer.prepare("a", picture((64, 96)), "w1 w2")
    [label] = engine.label([sample])
    scores = []
    for ids in choice_tokens(engine._processing, choices):  # as the end of a prompt of its own
        longer = replace(sample, input_ids=np.concatenate([sample.input_ids, np.array(ids, np.int32)]))
        logprobs = prompt_scores(engine, longer).log_softmax(1)
        scores.append(float(sum(logprobs[at - len(ids) - 1, token] for at, token in enumerate(ids))))
    assert [*label.choice_probabilities.values()] == pytest.approx(torch.tensor(scores).softmax(0).tolist(), abs=1e-5)


def prompt_scores(engine: Engine, sample) -> torch.Tensor:
    """[L, V]: the scores behind each token of a prompt, as prefill has them."""
    _, [group] = assembled(engine, [sample])
    cache = BatchCache(engine._adapter.depth, 1, group.embeds.shape[1])
    cache.begin_prefill(0, 1, group.embeds.shape[1])
    with torch.inference_mode():
        hidden = engine._adapter.forward(group.embeds, group.positions, None, cache, group.deepstack)
        return engine._adapter.score(hidden)[0]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12, unique=True),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_a_tree_gives_every_choice_its_tokens_and_chunks_hold_what_comes_before(choices, most, chance):
    """Scores by a made-up model whose log-probability of a token is a function of all tokens before it."""

    def logprob(path: tuple[int, ...], token: int) -> float:
        return -1 - hash((path, token)) % 997 / 100

    tree = ChoiceTree(choices, ends=[1, 2])
    found = np.full(len(tree.edge_tokens), np.nan)
    found[: tree.first_edges] = [logprob((), int(token)) for token in tree.edge_tokens[: tree.first_edges]]
    for chunk in tree.chunks(most):
        assert len(chunk.tokens) - chunk.repeated <= most
        seen = [tuple(chunk.tokens[row].tolist()) for row in chunk.sees]
        assert [len(path) for path in seen] == chunk.depths.tolist()
        assert all(path[-1] == token for path, token in zip(seen, chunk.tokens, strict=True))
        for edge, node in zip(range(chunk.edges.start, chunk.edges.stop), chunk.nodes, strict=True):
            found[edge] = logprob(seen[node], int(tree.edge_tokens[edge]))
    assert not np.isnan(found).any()
    scores = []
    for choice in choices:
        score = sum(logprob(choice[:at], token) for at, token in enumerate(choice))
        if any(other[: len(choice)] == choice and other != choice for other in choices):
            score += np.logaddexp(logprob(choice, 1), logprob(choice, 2))
        scores.append(score)
    answer = tree.answer(found)
    assert scores[answer.choice] == pytest.approx(max(scores))
    shares = np.exp(np.array(scores) - max(scores))
    assert answer.probabilities == pytest.approx(shares / shares.sum(), abs=1e-9)
    assert tuple(answer.ids) == tuple(choices[answer.choice])


def test_of_equals_the_first_is_the_answer():
    answer = ChoiceTree([(5,), (3,), (4,)], ends=[]).answer(np.array([-2.0, -1.0, -1.0], np.float32))
    assert answer.choice == 1 and answer.lead == 0


def test_scores_that_are_not_finite_are_told(model, monkeypatch):
    preparer, engine = load(model, choices=CHOICES)
    monkeypatch.setattr(engine._adapter, "score", lambda hidden: torch.full((*hidden.shape[:-1], 207), math.inf))
    [label] = engine.label([preparer.prepare("a", picture((64, 64)), "w1")])
    assert "NaN or infinite" in label.problem and label.answer == ""


@pytest.mark.parametrize(
    ("choices", "said"),
    [(("w1", "nonsense"), "no tokens for the choice 'nonsense'"), (("w1 w2", "w1  w2"), "are the same tokens")],
)
def test_choices_that_the_model_cannot_tell_apart_are_refused(model, choices, said):
    with pytest.raises(ValueError, match=said):
        Preparer.load(model, EngineOptions(choices=choices))
    preparer, _ = load(model)
    with pytest.raises(PrepareError, match=said):
        preparer.converse("a", [picture((64, 64))], [Turn.asking("w1")], choices)


def test_the_longest_choice_has_to_fit(model):
    """And `max_new_tokens` has no say."""
    long = " ".join(["w1"] * 440)
    preparer = Preparer.load(model, EngineOptions(choices=["w1", "w2"], max_new_tokens=500))
    preparer.prepare("a", picture((64, 64)), long)
    with pytest.raises(PrepareError, match="context holds 512"):
        preparer.converse("a", [picture((64, 64))], [Turn.asking(long)], ("w1", " ".join(["w2"] * 80)))
