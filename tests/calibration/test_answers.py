"""Answers read back from an output."""

from __future__ import annotations

import pytest

from adafv.calibration.answers import read_answers
from adafv.pipeline.outputs.ledger import Ledger, digest_id
from adafv.pipeline.store.storage import Storage
from tests.reporting.outputs import label, run, write


def read(folder, labels, ids="abcdef", among=None):
    uri = write(folder / "out", [{"worker": "w1"} | one for one in labels], [run()])
    return read_answers(uri, Ledger(map(digest_id, ids)), Storage(), among)


def test_only_the_samples_rows_count(tmp_path):
    found = read(tmp_path, [label("a"), label("b", answer="blue"), label("x", seconds=99)], "ab")
    assert {id: row["answer"] for id, row in found.rows.items()} == {"a": "red", "b": "blue"}
    assert (found.seconds, found.kept_tokens, found.visual_tokens) == (1.0, 10, 100)


def test_a_workers_first_batch_is_no_measure_of_its_speed(tmp_path):
    labels = [label("a", 9.0), label("b", 9.0), label("c", 1.0, after=11), label("d", 2.0, after=12)]
    labels += [label("e", 7.0, after=20) | {"worker": "w2"}, label("f", 3.0, after=21) | {"worker": "w2"}]
    assert read(tmp_path, labels).seconds == 2.0


def test_unless_there_is_no_other(tmp_path):
    assert read(tmp_path, [label("a", 9.0), label("b", 9.0)]).seconds == 9.0


def test_reused_labels_took_no_time(tmp_path):
    """Also where all others are of a worker's first batch."""
    labels = [label("a", 9.0, encode_ms=500.0), label("b", 0.0, after=11, encode_ms=0.0)]
    found = read(tmp_path, labels)
    assert (found.seconds, found.encode_seconds, [*found.rows]) == (9.0, 0.5, ["a", "b"])


def test_costs_are_those_of_rows_that_the_unpruned_model_answered_too(tmp_path):
    """Rows that fit the model's context pruned only, such as "d", are the longest: they would count for one side."""
    labels = [label("a", 9.0), label("b", 1.0, after=11), label("c", 2.0, after=12)]
    labels.append(label("d", 30.0, after=13, prompt_tokens=4000, visual_tokens=9000, kept_tokens=900))
    short, found = read(tmp_path / "x", labels[:3]), read(tmp_path / "y", labels, among="abc")
    assert [*found.rows] == ["a", "b", "c"] and found.tokens == short.tokens
    assert (found.seconds, found.kept_tokens, found.visual_tokens) == (1.5, 10, 100)
    assert read(tmp_path / "z", labels, among="a").seconds == 9.0, "better a first batch than none"


def test_the_price_is_the_labels(tmp_path):
    labels = [label("a", 1.0), label("b", 1.0, after=11, cost_usd=0.5), label("c", 3.0, after=12, cost_usd=1.5)]
    assert read(tmp_path / "x", labels).usd_per_hour == 1800.0
    assert read(tmp_path / "y", [*labels, label("d", after=13)]).usd_per_hour is None


def test_workers_of_two_runs_are_two(tmp_path):
    labels = [label("a", 9.0, run="r1"), label("b", 8.0, run="r2", after=20), label("c", 1.0, run="r2", after=21)]
    assert read(tmp_path, labels).seconds == pytest.approx(1.0)


def test_nothing_labelled(tmp_path):
    found = read(tmp_path, [])
    assert found.rows == {} and found.seconds is None


def test_rows_that_each_hold_the_same_image_are_about_one(tmp_path):
    """In a table each is named after its row, so the pixels tell. Old labels, and those of no image, have none."""

    def of(id, *keys, name=None):
        shown = [
            {"image": id, "uri": id, "panels": 1, "visual_tokens": 1, "kept_tokens": 1, "key": key} for key in keys
        ]
        return label(id, image=name or f"part.parquet#{id}", images=shown)

    labels = [of("a", "k1"), of("b", "k1", "k2"), of("c", "k2"), of("d"), of("e", None, name="e.jpg"), label("f")]
    rows = read(tmp_path, labels).rows
    assert [rows[id]["image"] for id in "abcdef"] == ["k1", "k1", "k2", "part.parquet#d", "e.jpg", "f.jpg"]
