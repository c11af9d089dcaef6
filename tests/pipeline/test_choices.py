"""Whole runs whose answers are out of choices: the same for all rows, or each row's own."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from adafv.engine import Engine, EngineOptions, Preparer
from adafv.exporting.export import export
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.reader import reconcile
from tests.pipeline.inputs import NAMES, write_images, write_jsonl
from tests.pipeline.test_run import MODEL, label, outcome

CHOICES = ("w1", "w1 w2", "w3", "w4 w5")


def test_the_answer_is_one_of_them_and_a_run_resumes(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    rows = [{"id": f"r{i}", "image": NAMES[i % len(NAMES)], "question": f"w{i} w{2 * i}"} for i in range(12)]
    first = write_jsonl(tmp_path / "rows.jsonl", rows[:7])
    label(tiny_model, tmp_path / "out", first, choices=CHOICES, batch_size=3)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = label(tiny_model, tmp_path / "out", path, choices=CHOICES, batch_size=4)
    assert result.skipped == 7 and result.record["config"]["choices"] == CHOICES
    labels = outcome(tmp_path / "out").labels
    assert len(labels) == 12 and reconcile(tmp_path / "out").duplicates == 0
    label(tiny_model, tmp_path / "again", path, choices=CHOICES, batch_size=12)
    bits = {row["id"]: (row["answer"], row["choice_probabilities"]) for row in outcome(tmp_path / "again").labels}
    for row in labels:
        shares = dict(row["choice_probabilities"])
        best, second, *_ = sorted(shares.values(), reverse=True)
        assert tuple(shares) == CHOICES and sum(shares.values()) == pytest.approx(1)
        assert shares[row["answer"]] == best and row["confidence"] == pytest.approx(best - second)
        assert bits[row["id"]] == (row["answer"], row["choice_probabilities"]), "to the bit, in other batches"
    with pytest.raises(UsageError, match=r"choices was \['w1', 'w1 w2', 'w3', 'w4 w5'\] and is \['w1', 'w3'\]"):
        label(tiny_model, tmp_path / "out", path, choices=("w1", "w3"))
    export(tmp_path / "out", "jsonl", tmp_path / "labels.jsonl")
    exported = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert all(row["choice_probabilities"].keys() == set(CHOICES) for row in exported)


def test_choices_by_row(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    own = {"a": ["w1", "w2 w3"], "b": ["w4"], "c": [], "d": ["w1", "nonsense"]}
    rows = [{"id": id, "image": NAMES[0], "question": "w7 w8", "of": choices} for id, choices in own.items()]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    label(tiny_model, tmp_path / "out", path, choices_column="of")
    found = outcome(tmp_path / "out")
    labels = {row["id"]: row for row in found.labels}
    assert labels.keys() == {"a", "b"} and {row["error"] for row in found.rejects} == {"bad_row"}
    assert any("no tokens for the choice 'nonsense'" in row["message"] for row in found.rejects)
    options = EngineOptions(**MODEL, choices=own["a"])
    preparer, engine = Preparer.load(str(tiny_model), options), Engine.load(str(tiny_model), options)
    with Image.open(tmp_path / NAMES[0]) as image:
        [expected] = engine.label([preparer.prepare("a", image.convert("RGB"), "w7 w8")])
    assert dict(labels["a"]["choice_probabilities"]) == expected.choice_probabilities
    assert labels["b"]["choice_probabilities"] == [("w4", 1.0)]


def test_choices_that_the_model_cannot_say_are_a_usage_error(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    path = write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(UsageError, match=r"--choices is .* no tokens for the choice 'nonsense'"):
        label(tiny_model, tmp_path / "out", path, choices=("w1", "nonsense"))
