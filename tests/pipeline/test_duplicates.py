"""Rows that repeat others, through a job that is ended half-way and goes on: each is labelled once."""

from __future__ import annotations

import json

import pyarrow.dataset as ds

from jobs.label import main
from tests.pipeline.inputs import write_uris
from tests.pipeline.pictures import SOUND


def test_a_third_of_the_rows_repeat_others(ray_local, tiny_model, tmp_path):
    rows = [{"id": f"r{i}", "image": SOUND["plain.jpg"], "question": f"w{i % 60}"} for i in range(90)]
    path = write_uris(tmp_path / "rows.parquet", rows)
    arguments = [
        "--input", str(path), "--output", str(tmp_path / "out"), "--model", str(tiny_model), "--max-new-tokens", "2",
        "--duplicates", "reuse", "--price-per-hour", "1",
    ]  # fmt: skip
    assert main([*arguments, "--limit", "70", "--run-id", "a"]) == 0
    assert main([*arguments, "--run-id", "b"]) == 0
    labels = {row["id"]: row for row in ds.dataset(tmp_path / "out/labels").to_table().to_pylist()}
    assert (
        sorted(labels) == sorted(row["id"] for row in rows) and ds.dataset(tmp_path / "out/labels").count_rows() == 90
    )
    repeats = {row["id"]: row["duplicate_of"] for row in labels.values() if row["duplicate_of"]}
    assert len(repeats) == 10, "of the first run; what an earlier run labelled is not remembered"
    for id, original in repeats.items():
        assert labels[id]["prompt"] == labels[original]["prompt"] and labels[original]["duplicate_of"] is None
        assert labels[id]["answer"] == labels[original]["answer"] and labels[id]["cost_usd"] == 0
    counts = [json.loads((tmp_path / f"out/runs/{name}.json").read_text())["counts"] for name in "ab"]
    assert [(one["labelled"], one["reused"]) for one in counts] == [(70, 10), (20, 0)]
