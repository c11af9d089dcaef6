"""Right answers, from each kind of input that can have them."""

from __future__ import annotations

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.calibration.truth import check_column, read_truth
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.ledger import Ledger, digest_id
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import write_jsonl

ROWS = [
    {"id": "a", "image": "a.jpg", "question": "?", "answer": ["red", "crimson"]},
    {"id": "b", "image": "b.jpg", "question": "?", "answer": ["blue"]},
    {"id": "a", "image": "c.jpg", "question": "?", "answer": ["a repetition"]},
    {"id": None, "image": "d.jpg", "question": "?", "answer": ["nobody's"]},
    {"id": "c", "image": "e.jpg", "question": "?", "answer": None},
    {"id": "d", "image": "f.jpg", "question": "?", "answer": ["not drawn"]},
]


def job(path) -> JobOptions:
    return JobOptions(input=(str(path),), output="out")


def truth(path):
    return read_truth(job(path), "answer", Ledger(map(digest_id, "abc")), Storage())


def test_tables(ray_local, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=2)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    for name in ("rows.parquet", "rows.jsonl"):
        assert truth(tmp_path / name) == {"a": ("red", "crimson"), "b": ("blue",)}


def test_tars(ray_local, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("a.jpg", b"x"), ("a.json", json.dumps({"answer": "red", "question": "?"}).encode())):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert truth(tmp_path / "x.tar") == {"a": ("red",)}
    check_column(job(tmp_path / "x.tar"), "--answer-column", "answer", Storage())


def test_a_column_that_there_is_not(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    check_column(job(path), "--answer-column", "answer", Storage())
    with pytest.raises(UsageError, match="--answer-column is 'answers'"):
        check_column(job(path), "--answer-column", "answers", Storage())


def test_the_first_file_counts(ray_local, tmp_path):
    for number, answer in enumerate(["red", "blue"]):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"id": "a", "image": "a.jpg", "question": "?", "answer": answer}])
    assert truth(tmp_path) == {"a": ("red",)}
