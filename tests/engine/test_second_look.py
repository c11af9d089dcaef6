"""Answers that aren't sure are asked again, and come out as if they had been labelled so at once."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adafv.engine import Engine, EngineOptions, PrepareError, Preparer
from adafv.engine.generation import Generator
from adafv.engine.sample import TIMES
from adafv.pruning import STRATEGIES
from adafv.turn import Turn
from tests.engine.test_engine import crowd, essence, load
from tests.models.conftest import picture

PRUNING = sorted(set(STRATEGIES) - {"none"})


def middle(labels) -> float:
    """A threshold that half of the answers are below, and none is near."""
    sure = sorted(label.confidence for label in labels)
    at = len(sure) // 2
    return (sure[at - 1] + sure[at]) / 2


def batches(generate) -> list[int]:
    """How many answers each call of a watched `Generator` was asked for."""
    return [len(call.args[2]) for call in generate.call_args_list]


def check(labels, first, again, threshold):
    """`labels` are those of two looks, of which the `first` and the second one by themselves gave these."""
    asked = 0
    for label, one, other in zip(labels, first, again, strict=True):
        if one.confidence < threshold:
            asked += 1
            assert label.looks == 2 and essence(label) == essence(other)
            assert label.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
            assert label.prompt_tokens == other.prompt_tokens and label.parts == other.parts
            assert label.keep == other.keep
            assert label.first_answer == one.answer
            assert label.first_confidence == pytest.approx(one.confidence, abs=1e-4)
            assert label.first_kept_indices.tolist() == one.kept_indices.tolist()
        else:
            assert label.looks == 1 and essence(label) == essence(one) and label.keep == one.keep
            assert label.first_answer is label.first_confidence is label.first_kept_indices is None
        assert label.confidence == np.float32(label.mean_logprob)
    return asked


@pytest.mark.parametrize("strategy", PRUNING)
@pytest.mark.parametrize("escalate", [0.6, 1.0])
def test_a_second_look_is_what_labelling_so_at_once_gives(model, strategy, escalate):
    preparer, once = load(model, strategy=strategy)
    direct = load(model, strategy="none")[1] if escalate == 1 else load(model, strategy=strategy, keep=escalate)[1]
    samples = crowd(preparer, 12)
    first, again = once.label(samples), direct.label(samples)
    threshold = middle(first)
    _, engine = load(model, strategy=strategy, escalate=escalate, escalate_below=threshold)
    assert check(engine.label(samples), first, again, threshold) == 6


@pytest.mark.parametrize("size", [1, 2, 5, 24])
def test_neighbours_change_nothing(model, size):
    preparer, once = load(model)
    samples = crowd(preparer, 24)
    first, again = once.label(samples), load(model, strategy="none")[1].label(samples)
    threshold = middle(first)
    _, engine = load(model, escalate=1.0, escalate_below=threshold)
    order = random.Random(size).sample(range(24), 24)
    found = {}
    for start in range(0, 24, size):
        some = order[start : start + size]
        found |= dict(zip(some, engine.label([samples[row] for row in some]), strict=True))
    assert check([found[row] for row in range(24)], first, again, threshold) == 12


def test_a_sampled_answer_is_asked_again_with_the_same_draws(model):
    drawing = {"temperature": 1.5, "top_p": 0.9, "seed": 3}
    preparer, once = load(model, **drawing)
    samples = crowd(preparer, 12)
    first, again = once.label(samples), load(model, strategy="none", **drawing)[1].label(samples)
    threshold = middle(first)
    _, engine = load(model, escalate=1.0, escalate_below=threshold, **drawing)
    assert check(engine.label(samples), first, again, threshold) == 6


def test_images_are_encoded_once_and_second_looks_asked_together(model, spy):
    _, engine = load(model, escalate=1.0, escalate_below=math.inf)
    preparer, _ = load(model)
    encode, generate = spy(type(engine._adapter), "encode"), spy(Generator, "__call__")
    engine.label(crowd(preparer, 9))  # of which three share their picture with another
    assert encode.call_count == 6 and batches(generate) == [9, 9]


def test_times_of_a_second_look_are_those_of_the_rows_that_had_one(model):
    preparer, once = load(model)
    samples = crowd(preparer, 8)
    threshold = middle(once.label(samples))
    labels = load(model, escalate=1.0, escalate_below=threshold)[1].label(samples)
    by_looks = {looks: [label for label in labels if label.looks == looks] for looks in (1, 2)}
    for name in TIMES:
        [first], [both] = ({getattr(label, name) for label in by_looks[looks]} for looks in (1, 2))
        assert both == first if name == "encode_ms" else both > first
    assert {label.batch_size for label in labels} == {8}


def test_what_has_no_more_to_see_is_not_asked_again(model):
    preparer, _ = load(model)
    text = preparer.converse("text", (), (Turn("user", ("w1 w2",)),))
    small, large = (preparer.prepare(str(size), picture(size), "w3") for size in ((1, 300), (64, 64)))
    assert small.visual_tokens < large.visual_tokens
    _, engine = load(model, keep_tokens=small.visual_tokens, escalate=1.0, escalate_below=math.inf)
    assert [label.looks for label in engine.label([text, small, large])] == [1, 1, 2]


def test_a_question_that_only_fits_pruned_is_refused_before(model):
    long = " ".join(["w1"] * 430)
    Preparer.load(model, EngineOptions(keep=0.1, max_new_tokens=8)).prepare("a", picture((64, 64)), long)
    both = Preparer.load(model, EngineOptions(keep=0.1, max_new_tokens=8, escalate=1.0, escalate_below=-1.0))
    with pytest.raises(PrepareError, match="context holds 512"):
        both.prepare("a", picture((64, 64)), long)


def test_second_looks_that_do_not_fit_are_halved_by_themselves(model, monkeypatch):
    preparer, engine = load(model, escalate=1.0, escalate_below=math.inf)
    samples, generate, sizes = crowd(preparer, 8), Generator.__call__, []
    expected = [essence(label) for label in engine.label(samples)]

    def tight(self, groups, seeds, **more):
        unpruned = max(group.embeds.shape[1] for group in groups) > 60
        sizes.append((len(seeds), unpruned))
        if unpruned and len(seeds) > 2:
            raise torch.OutOfMemoryError("no more")
        return generate(self, groups, seeds, **more)

    monkeypatch.setattr(Generator, "__call__", tight)
    assert [essence(label) for label in engine.label(samples)] == expected
    assert sizes == [(8, False), (8, True), (4, True), *[(2, True)] * 4]


def test_the_trial_asks_twice(model, spy):
    _, engine = load(model, escalate=1.0, escalate_below=-1000.0)
    generate = spy(Generator, "__call__")
    engine.try_out()
    assert generate.call_count == 2


def test_an_audit_asks_a_share_unpruned_as_well(model):
    """Nothing else of the labels changes, whichever samples share the batch; and times are the audited rows' own."""
    preparer, once = load(model)
    samples, whole = crowd(preparer, 24), load(model, strategy="none")[1]
    expected, unpruned = once.label(samples), whole.label(samples)
    _, engine = load(model, audit=0.4)
    labels = engine.label(samples)
    drawn = [label.audit_answer is not None for label in labels]
    assert 4 < sum(drawn) < 16
    for label, first, other, audited in zip(labels, expected, unpruned, drawn, strict=True):
        assert essence(label) == essence(first) and label.looks == 1
        assert label.audit_answer == (other.answer if audited else None)
    [spent] = {label.prefill_ms for label, audited in zip(labels, drawn, strict=True) if not audited}
    assert all(label.prefill_ms > spent for label, audited in zip(labels, drawn, strict=True) if audited)
    again = [label.audit_answer for start in range(0, 24, 5) for label in engine.label(samples[start : start + 5])]
    assert again == [label.audit_answer for label in labels]


def test_an_unpruned_answer_is_its_own_audit(model, spy):
    preparer, engine = load(model, escalate=1.0, escalate_below=math.inf, audit=1.0)
    generate = spy(Generator, "__call__")
    labels = engine.label(crowd(preparer, 4))
    assert batches(generate) == [4, 4] and all(label.audit_answer == label.answer for label in labels)


def test_an_unpruned_answer_that_is_none_counts_for_no_audit(model):
    preparer, engine = load(model)
    [label] = engine.label(crowd(preparer, 1))
    assert label.audited(replace(label, answer="", problem="cut off")).audit_answer is None
    assert label.audited(label).audit_answer == label.answer


def test_what_does_not_fit_unpruned_is_not_audited(model):
    preparer, engine = load(model, audit=1.0)
    long, short = (preparer.prepare(str(count), picture((64, 64)), " ".join(["w1"] * count)) for count in (430, 3))
    first, second = engine.label([long, short])
    assert first.audit_answer is None and second.audit_answer is not None


def test_what_has_no_room_unpruned_is_labelled_without_an_audit(model, monkeypatch):
    preparer, engine = load(model, audit=1.0)
    samples, assemble, sizes = crowd(preparer, 6), Engine._assemble, []
    expected = [(essence(label), label.audit_answer) for label in engine.label(samples)]
    expected[2] = expected[2][0], None

    def tight(self, part, images, encoded, mask, alone):
        sizes.append(len(part))
        if len(sizes) > 1 and samples[2] in part:
            raise torch.OutOfMemoryError("no more")
        return assemble(self, part, images, encoded, mask, alone)

    monkeypatch.setattr(Engine, "_assemble", tight)
    assert [(essence(label), label.audit_answer) for label in engine.label(samples)] == expected
    assert sizes == [6, 6, 3, 1, 1, 1, 1, 1, 1]


def test_thresholds_by_stratum(model):
    """Of half of the rows the kind says that each is asked again, of some that none is; others go by the common one."""
    preparer, once = load(model)
    samples = crowd(preparer, 12)
    first, again = once.label(samples), load(model, strategy="none")[1].label(samples)
    threshold = middle(first)
    kinds = ["always", "never", None, "unknown"]
    marked = [replace(sample, stratum=kinds[number % 4]) for number, sample in enumerate(samples)]
    by_kind = json.dumps({"type": {"always": 1.0, "never": -1e9}})
    _, engine = load(model, escalate=1.0, escalate_below=threshold, thresholds=by_kind)
    for sample, label, one, other in zip(marked, engine.label(marked), first, again, strict=True):
        asked = {"always": True, "never": False}.get(sample.stratum, one.confidence < threshold)
        assert label.looks == 1 + asked and essence(label) == essence(other if asked else one)
