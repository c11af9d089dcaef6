"""What is measured on a GPU, on a CPU: each part's figures, and that one that fails takes no other with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adafv.bench import gpu
from adafv.bench.gpu import GpuSettings
from adafv.engine import Engine
from adafv.pipeline.errors import UsageError
from tests.bench.tiny_shapes import NEXT

SETTINGS = GpuSettings(
    device="cpu", dtype="bfloat16", shape=NEXT, preset="tiny", questions=3, sizes=(1, 2), max_new_tokens=3
)


def test_settings_name_models_that_there_are():
    given = {"device": "cpu", "preset": "cpu-small", "questions": 3}
    assert (found := gpu.of(**given)).dtype == "float32" and found.models == gpu.MODELS
    assert gpu.of(**given, dtype="bfloat16", models=["textured-clip"]).models == ("textured-clip",)
    with pytest.raises(UsageError, match="--models names photo; there are testbed, "):
        gpu.of(**given, models=["photo", "testbed"])


def test_labels_on_the_cpu_are_the_cpus():
    rows = gpu.labels(replace(SETTINGS, models=("testbed", "textured-clip"), strategies=("adafv", "adafv-plus")))
    assert [(row["strategy"], row["dtype"]) for row in rows[:4]] == [
        (name, dtype) for name in ("adafv", "adafv-plus") for dtype in ("float32", "bfloat16")
    ]
    assert {row["model"] for row in rows} == {"testbed", "textured-clip"} and {row["n"] for row in rows} == {3}
    assert all(row["same_selection"] == row["same_answer"] == 1 for row in rows if row["dtype"] == "float32")


def test_other_labels_are_counted(monkeypatch):
    """One of three rows is another the second time."""
    label, calls = Engine.label, []

    def unsteady(self, samples):
        calls.append(len(samples))
        found = label(self, samples)
        return [*found[:-1], found[0]] if len(calls) == 2 else found

    monkeypatch.setattr(Engine, "label", unsteady)
    rows = gpu.repeats(SETTINGS)
    assert [row["batch_size"] for row in rows] == [32, 1, 8] * 2
    assert rows[0]["same_bits"] == rows[0]["same_selection"] == 2 / 3 and rows[3]["same_bits"] == 1
    assert calls[:3] == [3, 3, 1]


def test_sizes_end_with_one_that_does_not_fit(monkeypatch):
    label = Engine._label

    def tight(self, samples, on_progress):
        if len(samples) > 2:
            raise torch.OutOfMemoryError
        return label(self, samples, on_progress)

    monkeypatch.setattr(Engine, "_label", tight)
    rows = gpu.sizes(replace(SETTINGS, sizes=(1, 4, 8)))
    assert [(row["batch_size"], row["at_once"]) for row in rows] == [(1, 1), (4, 2)]
    assert all(row["samples_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("part", [gpu.sizes, gpu.launches])
def test_what_is_timed_has_not_been_seen_before(monkeypatch, part):
    """The engine doesn't encode the last picture of the batch before again, so a batch of one would lack encoding."""
    seen, timed, alone = [], gpu.timed, replace(SETTINGS, sizes=(1,))
    monkeypatch.setattr(gpu, "timed", lambda *given: seen.append(timed(*given)) or seen[-1])
    part(alone)
    [(_, answered)] = seen
    assert answered.crops == 5


def test_launches_are_counted():
    found = gpu.launches(SETTINGS)
    assert found["launches"] == found["launches_per_token"] * 3 > 100 and found["batch_size"] == 2
    assert found["busy_share"] > 0


def test_a_part_that_fails_says_so_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(gpu, "apart", lambda function, *arguments: function(*arguments))
    figures, text = gpu.run(SETTINGS, ["halving", "launches"], minutes=10)
    assert figures["halving"] == {"error": "ValueError: only a GPU's memory can be made short"}
    assert figures["launches"]["launches"] > 0 and "launches: batch_size 2" in text
    figures, _ = gpu.run(SETTINGS, ["launches"], minutes=-1)
    assert figures == {"launches": {"error": "the minutes were spent"}}
