"""Whole runs with several sampled answers a row."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from adafv.exporting.export import export
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.reader import reconcile
from tests.pipeline.inputs import NAMES, write_images, write_jsonl
from tests.pipeline.test_run import label, outcome

DRAWING = {"temperature": 1.0, "samples": 3}


def test_a_column_has_them_and_a_run_resumes(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    rows = [{"id": f"r{i}", "image": NAMES[i % len(NAMES)], "question": f"w{i} w{2 * i}"} for i in range(8)]
    label(tiny_model, tmp_path / "out", write_jsonl(tmp_path / "rows.jsonl", rows[:5]), **DRAWING, batch_size=2)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = label(tiny_model, tmp_path / "out", path, **DRAWING, batch_size=8)
    assert result.skipped == 5 and reconcile(tmp_path / "out").labelled == 8
    labels = {row["id"]: row for row in outcome(tmp_path / "out").labels}
    for row in labels.values():
        best = max(row["samples"], key=lambda one: one["mean_logprob"])
        assert len(row["samples"]) == 3 and row["answer"] == best["answer"]
        assert row["mean_logprob"] == row["confidence"] == best["mean_logprob"]
        assert row["output_tokens"] == sum(one["output_tokens"] for one in row["samples"])
    with pytest.raises(UsageError, match="samples was 3 and is None"):
        label(tiny_model, tmp_path / "out", path, temperature=1.0)
    label(tiny_model, tmp_path / "second", path, temperature=1.0, seed=1)
    assert all("samples" not in pq.read_schema(file).names for file in (tmp_path / "second" / "labels").iterdir())
    for row in outcome(tmp_path / "second").labels:
        assert row["answer"] == labels[row["id"]]["samples"][1]["answer"], "the second is that of the next seed"
    export(tmp_path / "out", "jsonl", tmp_path / "labels.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert {line["id"]: line["samples"] for line in lines} == {row["id"]: row["samples"] for row in labels.values()}
