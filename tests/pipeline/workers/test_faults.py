"""Whole runs in which rows kill, hang and break what works on them: each costs itself, and nothing else."""

from __future__ import annotations

import pytest

from adafv.pipeline import run as module
from adafv.pipeline.errors import RunError
from tests.pipeline.inputs import NAMES, write_images, write_jsonl
from tests.pipeline.test_run import label, outcome
from tests.pipeline.workers.deeds import BadLabelling, BadPreparing, NoLabelling


@pytest.fixture
def deeds(monkeypatch):
    monkeypatch.setattr(module, "Preparing", BadPreparing)
    monkeypatch.setattr(module, "Labelling", BadLabelling)


def write_rows(folder, deeds: dict[int, str], count: int = 24):
    """Rows r0 ..., of which those in `deeds` also ask for a deed. Words that the model doesn't know change no answer:
    each is <unk>, so a clean run is one with another unknown word."""
    write_images(folder)
    rows = [
        {"id": f"r{i}", "image": NAMES[i % len(NAMES)], "question": f"w{i} {deeds.get(i, 'nothing')}"}
        for i in range(count)
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def kept_and_answers(output):
    return {row["id"]: (row["answer"], row["kept_indices"]) for row in outcome(output).labels}


@pytest.fixture(scope="module")
def clean(ray_local, tiny_model, tmp_path_factory):
    """The labels of an undisturbed run."""
    folder = tmp_path_factory.mktemp("clean")
    label(tiny_model, folder / "out", write_rows(folder, {}), batch_size=8)
    return kept_and_answers(folder / "out")


@pytest.mark.slow
def test_rows_that_kill_hang_and_fail_cost_themselves_alone(deeds, clean, tiny_model, tmp_path):
    bad = {
        1: ("prepare:die", "prepare_died", "signal 11 (SIGSEGV)"),
        4: ("prepare:hang", "prepare_died", "no progress for 6 s"),
        6: ("label:die", "worker_died", "signal 11 (SIGSEGV)"),
        9: ("label:lose_device", "worker_died", "AcceleratorError: CUDA error: device-side assert triggered"),
        12: ("label:fail", "label_failed", "ValueError: no such luck"),
        17: ("label:exhaust", "out_of_memory", "DeviceMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
        20: ("label:hang", "worker_died", "no progress for 6 s"),
    }
    path = write_rows(tmp_path, {i: deed for i, (deed, _, _) in bad.items()})
    result = label(tiny_model, tmp_path / "out", path, batch_size=8, batch_timeout=6.0, image_timeout=6.0)
    found = outcome(tmp_path / "out")
    assert {row["id"]: (row["error"], row["message"]) for row in found.rejects} == {
        f"r{i}": (error, message) for i, (_, error, message) in bad.items()
    }
    assert kept_and_answers(tmp_path / "out") == {id: clean[id] for id in clean if int(id[1:]) not in bad}
    assert result.status == 0 and len(found.labels) == 24 - len(bad)


@pytest.mark.slow
def test_accidents_cost_no_row(deeds, clean, tiny_model, tmp_path):
    """Each process is killed once: the children that prepare and label, and the Ray workers that they belong to."""
    deeds_of = {
        2: f"prepare:die@{tmp_path}/a",
        5: f"prepare:orphan@{tmp_path}/b",
        11: f"label:die@{tmp_path}/c",
        19: f"label:orphan@{tmp_path}/d",
    }
    result = label(tiny_model, tmp_path / "out", write_rows(tmp_path, deeds_of), batch_size=8)
    assert all((tmp_path / marker).exists() for marker in "abcd")
    found = outcome(tmp_path / "out")
    assert found.rejects == [] and len(found.labels) == 24 and result.status == 0
    assert kept_and_answers(tmp_path / "out") == clean


def test_a_worker_that_can_not_start_blames_no_row(ray_local, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Labelling", NoLabelling)
    with pytest.raises(RunError, match=r"died 3 times before it was given any row, at last by signal 11 \(SIGSEGV\)"):
        label(tiny_model, tmp_path / "out", write_rows(tmp_path, {}))
    assert outcome(tmp_path / "out").rejects == []
