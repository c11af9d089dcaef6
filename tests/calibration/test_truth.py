"""Right answers, from each kind of input that can have them."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.calibration.truth import check_answers, check_column, read_strata, read_truth
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


SAMPLE = Ledger(map(digest_id, ("a", "b", "c", "a/1", "a/2", "b/1")))


def truth(path, metric="exact", **values):
    return read_truth(replace(job(path), **values), "answer", SAMPLE, Storage(), metric)


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


def test_files_without_rows_lack_no_column(tmp_path):
    """Spark writes such files; the job says what is wrong where there are no others, and rejects what is damaged."""
    (tmp_path / "0.damaged.parquet").write_bytes(b"PAR1")
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table.slice(0, 0), tmp_path / "0.parquet")
    pq.ParquetWriter(tmp_path / "1.parquet", table.schema).close()
    check_column(job(tmp_path / "1.parquet"), "--answer-column", "answer", Storage())
    check_answers(job(tmp_path), "answer", "vqa", Storage())
    pq.write_table(table, tmp_path / "2.parquet")
    check_column(job(tmp_path), "--answer-column", "answer", Storage())
    with pytest.raises(UsageError, match=r"2\.parquet has no such column"):
        check_column(job(tmp_path), "--answer-column", "answers", Storage())


def test_the_first_file_counts(ray_local, tmp_path):
    for number, answer in enumerate(["red", "blue"]):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"id": "a", "image": "a.jpg", "question": "?", "answer": answer}])
    assert truth(tmp_path) == {"a": ("red",)}


@pytest.mark.parametrize("talk", [False, True])
def test_several_questions_of_a_row(ray_local, tmp_path, talk):
    """A list has an answer for each, a text is that of all; and a row's questions have its stratum."""

    def row(id, answer, count=2):
        turns = [
            {"from": "human", "value": "<image>\n?"},
            {"from": "gpt", "value": "!"},
            {"from": "human", "value": "?"},
        ]
        asked = {"conversations": turns[: 2 * count - 1]} if talk else {"question": ["?", "??"][:count]}
        return {"id": id, "image": "a.jpg", "answer": answer, "type": f"of {id}"} | asked

    rows = [row("a", [["red"], ["two", "2"]]), row("b", ["blue", "navy"], 1)]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "0.parquet")
    given = {"conversations_column": "conversations"} if talk else {}
    assert truth(tmp_path / "0.parquet", **given) == {"a/1": ("red",), "a/2": ("two", "2")}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    path = tmp_path / "rows.jsonl"
    assert truth(path, **given) == {"a/1": ("red",), "a/2": ("two", "2"), "b/1": ("blue", "navy")}
    strata = read_strata(replace(job(path), **given), "type", SAMPLE, Storage())
    assert strata == {"a/1": "of a", "a/2": "of a", "b/1": "of b"}
    write_jsonl(path, [row("a", "red"), row("b", ["red"] * 3)])
    assert truth(path, **given) == {"a/1": ("red",), "a/2": ("red",)}


def test_rows_that_where_leaves_out(ray_local, tmp_path):
    """Splits may number their rows alike: the answer is the one of the row that is labelled."""
    rows = [{"id": "a", "image": "a.jpg", "question": "?", "answer": one, "split": one} for one in ("red", "blue")]
    assert truth(write_jsonl(tmp_path / "rows.jsonl", rows), where="split == 'blue'") == {"a": ("blue",)}


def test_answers_beside_images(ray_local, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.json").write_text(json.dumps({"answer": "red"}))
    of, sample = replace(job(tmp_path), prompt="what?"), Ledger([digest_id("a.jpg"), digest_id("b.jpg")])
    check_column(of, "--answer-column", "answer", Storage())
    assert read_truth(of, "answer", sample, Storage()) == {"a.jpg": ("red",)}
    with pytest.raises(UsageError, match="has no such column"):
        check_column(of, "--answer-column", "answers", Storage())


def test_too_few_answers_for_the_metric(ray_local, tmp_path):
    """A few such rows count as unknown. If the first ones all are, nothing is labelled first."""
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(UsageError, match=r"--metric vqa needs 4 or more right answers .* has 2"):
        check_answers(job(path), "answer", "vqa", Storage())
    check_answers(job(path), "answer", "f1", Storage())
    write_jsonl(path, [ROWS[1], ROWS[0] | {"answer": ["red"] * 10}])
    check_answers(job(path), "answer", "vqa", Storage())
    assert truth(path, "vqa") == {"a": ("red",) * 10}
