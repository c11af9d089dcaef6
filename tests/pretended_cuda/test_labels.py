"""On a pretended GPU: labels are the CPU's, and the host stays ahead of the device up to the last token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from adafv.engine import Engine, EngineOptions, Label, Preparer, Sample, load_model
from adafv.engine.choices import ChoiceScorer
from adafv.engine.generation import Generator
from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER
from adafv.turn import Turn
from tests.models.conformance.variants import VARIANTS
from tests.models.conftest import picture
from tests.pretended_cuda.device import CUDA, World, pretended_cuda
from tests.tiny_clip import build_clip
from tests.tiny_models import Shape, build

SIZES = [(64, 64), (30, 61), (97, 40)]
FAMILIES = (
    "LLaVA-1.5, Vicuna",
    "LLaVA-interleave, Qwen (SigLIP)",
    "LLaVA-NeXT, Mistral",
    "LLaVA-OneVision, Qwen2",
    "InternVL3, Qwen2",
    "Idefics3, Llama-3",
    "Qwen2.5-VL",
    "Qwen3-VL",
)
DECODING = {
    "sampling": {"temperature": 0.8, "top_p": 0.9, "seed": 3},
    "newlines": {"newlines": "rows", "text_scope": "prompt"},
    "kept positions": {"positions": "kept"},
    "a count": {"keep_tokens": 7},
    "a second look": {"escalate": 0.6, "escalate_below": 0.0},
    "an audit": {"audit": 1.0},
    "stops": {"stop": ("w1", "w2", "w3", "w4", "w5"), "min_new_tokens": 2, "banned_words": ("w6", "w7")},
    "choices": {"choices": ("w1", "w1 w2 w3", "w1 w4", "w5 w6")},
    "an unpruned second look": {"escalate": 1.0, "escalate_below": 0.0},
}

# What the host waits for before the last token is queued, and why: where there is a second look, for the first look's
# answers, which say what is asked again. An audit asks when those are read, though it needn't.
WAITS = {
    f"{name} in adafv.engine.{place}": "the first answers"
    for name, place in (
        ("tolist", "generation.Generator.__call__"),
        ("synchronize", "stopwatch.Stopwatch.milliseconds"),
        ("tolist", "engine._labels"),
        ("tolist", "engine._labels.<locals>.<dictcomp>"),
        ("_to_copy", "engine._labels"),
    )
} | {"tolist in adafv.pruning.selection.Selection.check": "the first answers' selection"}

# Where CUDA may sum in another order the next time. It does so for a single row, and last bits can tip a near-tie.
UNSTEADY = {
    "cumsum in adafv.engine.generation.Generator._choose",  # of a sampled answer
    "cumsum in adafv.pruning.selection.prefix_sums",  # adafv's and adafv-paper's
}

MEASURED = {"encode_ms", "prune_ms", "prefill_ms", "decode_ms"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-NeXT whose generation config asks for all that is in use."""
    path = build(tmp_path_factory.mktemp("next"))
    file = path / "generation_config.json"
    asked = {"repetition_penalty": 1.3, "suppress_tokens": [7], "no_repeat_ngram_size": 3}
    file.write_text(json.dumps(json.loads(file.read_text()) | asked))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_clip(tmp_path_factory.mktemp("clip")))


def questions(preparer: Preparer) -> list[Sample]:
    return [preparer.prepare(str(i), picture(size, i), "w1 w2 " * (i + 1)) for i, size in enumerate(SIZES)]


def conversations(preparer: Preparer) -> list[Sample]:
    """Of two pictures, of none and of one."""
    return [
        preparer.converse(str(i), [picture(size, i) for size in SIZES[:count]], [Turn.asking("w3 w4", count)])
        for i, count in enumerate((2, 0, 1))
    ]


def check(path: Path, ask=questions, **given) -> World:
    """Label on both devices, twice there, and compare."""
    how = {"keep": 0.2, "max_new_tokens": 6, "dtype": "float32", **given}
    options = EngineOptions(device="cpu", **how)
    adapter, processing = load_model(str(path), options)
    samples = ask(Preparer(processing, options))
    wanted = Engine(adapter, processing, options).label(samples)
    with pretended_cuda() as world:
        engine = Engine.load(str(path), EngineOptions(device="cuda", **how))
        for _ in range(2):  # the second time the last picture is known
            labels, before = labelled(world, engine, samples)
            assert world.uploads == [] and set(world.unsteady) <= UNSTEADY
            assert set(before) <= (WAITS.keys() if given.keys() & {"escalate", "audit"} else set())
            same(labels, wanted)
    return world


def labelled(world: World, engine: Engine, samples: Sequence[Sample]) -> tuple[list[Label], list[str]]:
    """The labels, and the waits before the last token was queued."""
    before: list[str] = []

    def watched(queue):
        def queued(*given):
            out = queue(*given)
            before[:] = world.waits
            return out

        return queued

    world.waits.clear()
    world.uploads.clear()
    world.unsteady.clear()
    decoding = mock.patch.object(Generator, "_decode", watched(Generator._decode))
    with decoding, mock.patch.object(ChoiceScorer, "_score", watched(ChoiceScorer._score)):
        return engine.label(samples), before


def same(labels: Sequence[Label], wanted: Sequence[Label]) -> None:
    for one, other in zip(labels, wanted, strict=True):
        for name in {field.name for field in fields(Label)} - MEASURED:
            a, b = getattr(one, name), getattr(other, name)
            if isinstance(a, np.ndarray):
                assert np.array_equal(a, b), name
            elif name in ("confidence", "mean_logprob", "first_confidence"):
                assert a == pytest.approx(b, abs=1e-4), name
            elif name == "choice_probabilities" and b is not None:
                assert a == pytest.approx(b, abs=1e-4)
            elif name != "padded_tokens":  # there more prompts go through prefill together
                assert a == b, name


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, tmp_path):
    [variant] = [each for each in VARIANTS if each.name == name]
    check(variant.build(tmp_path), strategy="adafv-plus")


def test_several_pictures_and_none(tiny, tmp_path):
    check(tiny, conversations)
    [variant] = [each for each in VARIANTS if each.name == "Qwen3-VL"]
    check(variant.build(tmp_path), conversations)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "adafv-plus"])
def test_strategies(strategy, tiny):
    check(tiny, strategy=strategy)


@pytest.mark.parametrize("strategy", WITH_TEXT_TOWER)
def test_strategies_with_a_text_tower(strategy, tiny, clip):
    check(tiny, strategy=strategy, text_tower=clip)


@pytest.mark.parametrize("options", DECODING.values(), ids=DECODING)
def test_decoding(options, tiny):
    check(tiny, **options)


def test_a_schema(tmp_path):
    """Its masks are made in a thread, which waits for each step's tokens while the next step is queued."""
    model = build(tmp_path, Shape(letters=True))
    schema = {"type": "object", "properties": {"a": {"enum": ["b", "c"]}}, "required": ["a"]}
    options = {"schema": schema | {"additionalProperties": False}, "max_new_tokens": 20, "dtype": "float32"}
    adapter, processing = load_model(str(model), EngineOptions(device="cpu"))
    samples = questions(Preparer(processing, EngineOptions()))
    wanted = Engine(adapter, processing, EngineOptions(device="cpu", **options)).label(samples)
    with pretended_cuda() as world:
        engine = Engine.load(str(model), EngineOptions(device="cuda", **options))
        labels, waits = labelled(world, engine, samples)
    assert {label.answer for label in wanted} <= {'{"a": "b"}', '{"a": "c"}'}
    same(labels, wanted)
    assert {wait for wait in waits if "adafv.engine.masks" not in wait} == set()


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8}], ids=["greedy", "sampled"])
def test_the_same_batch_twice_is_the_same_to_the_bit(options, tiny):
    """In bfloat16, in which a batch of another size may answer otherwise."""
    with pretended_cuda():
        engine = Engine.load(str(tiny), EngineOptions(device="cuda", max_new_tokens=6, **options))
        samples = questions(Preparer.load(str(tiny), EngineOptions(**options)))
        first, second = engine.label(samples), engine.label(samples)
    assert engine.dtype_name == "bfloat16"
    for one, other in zip(first, second, strict=True):
        assert (one.answer, one.mean_logprob) == (other.answer, other.mean_logprob)
        assert np.array_equal(one.kept_indices, other.kept_indices)


def test_the_pretended_device_notices():
    with pretended_cuda() as world:
        host = torch.arange(4.0)
        there = host.to("cuda")
        assert world.uploads == ["_to_copy in elsewhere"], "a blocking one"
        host.to("cuda", non_blocking=True)
        assert len(world.uploads) == 2, "from memory that isn't pinned"
        host.pin_memory()[1:].to("cuda", non_blocking=True)
        assert len(world.uploads) == 2 and world.launches == 3 and world.waits == []
        with pytest.raises(RuntimeError, match="two devices"):
            there + host
        for ask in (Tensor.item, Tensor.cpu, lambda x: x.tolist(), lambda x: x[x > 1], lambda x: x.nonzero()):
            before = len(world.waits)
            ask(there[:1])
            assert len(world.waits) > before
        before = world.launches
        assert (there[1:].view(3, 1) + 1).device == CUDA and world.launches == before + 1
        there.cumsum(0)
        assert world.unsteady == ["cumsum in elsewhere"]
