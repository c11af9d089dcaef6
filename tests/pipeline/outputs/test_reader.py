"""What is read back from an output: labels as they are, the rejects that hold, and the sum of it all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.pipeline.fields import fields_of
from adafv.pipeline.outputs.reader import pick_labels, read_labels, read_rejects, reconcile
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.storage import Storage

START = datetime(2026, 1, 1, tzinfo=UTC)


def label(id: str) -> dict:
    return {"id": id, "image": f"{id}.jpg", "answer": f"a {id}", "kept_indices": [1, 5]}


def reject(id: str | None, error: str, minute: int, place: str = "x.jpg") -> dict:
    return {"id": id, "image": place, "error": error, "message": f"{minute}", "rejected_at": minutes(minute)}


def minutes(number: int) -> datetime:
    return START + timedelta(minutes=number)


def write(output: Output, name: str, *rows: dict) -> None:
    columns = schema.LABELS if name.startswith("labels/") else schema.REJECTS
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=columns), buffer)
    output.put(f"{name}.parquet", buffer.getvalue().to_pybytes())


def rows(batches) -> list[dict]:
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> tuple[str, Storage]:
    if request.param == "local":
        return str(tmp_path / "out"), Storage()
    s3 = request.getfixturevalue("s3")
    return f"s3://{s3.new_bucket()}/some/out/", Storage.from_environment(environment=s3.environment)


def test_three_runs(place):
    """The files' names are in another order than the runs."""
    uri, storage = place
    output = open_output(uri, storage)
    write(
        output, "rejects/c",
        reject("late", "image_fetch_failed", 1), reject("图片", "image_fetch_failed", 1),
        reject("never", "image_fetch_failed", 1), reject("bad", "image_corrupt", 1),
        reject("a", "duplicate_id", 1), reject("never", "duplicate_id", 1),
        reject(None, "source_unreadable", 1, "f#3"), reject(None, "missing_id", 1, "f#4"),
    )  # fmt: skip
    write(output, "labels/c", label("a"), label("b"))
    write(output, "rejects/b", reject("late", "image_fetch_failed", 2), reject("never", "image_not_found", 2))
    write(output, "labels/b", label("图片"))
    write(output, "rejects/a", reject(None, "source_unreadable", 3, "f#3"))
    write(output, "labels/a", label("late"), label("f#4"))

    hold = {
        (row["id"], row["image"], row["error"], row["rejected_at"]) for row in rows(read_rejects(uri, False, storage))
    }
    assert hold == {
        ("never", "x.jpg", "image_not_found", minutes(2)),
        ("bad", "x.jpg", "image_corrupt", minutes(1)),
        ("a", "x.jpg", "duplicate_id", minutes(1)),
        ("never", "x.jpg", "duplicate_id", minutes(1)),
        (None, "f#3", "source_unreadable", minutes(3)),
        (None, "f#4", "missing_id", minutes(1)),
    }
    every = rows(read_rejects(uri, superseded=True, storage=storage))
    assert len(every) == 11
    assert Counter((row["id"], row["message"]) for row in every if row["superseded"]) == Counter(
        [("late", "1"), ("late", "2"), ("图片", "1"), ("never", "1"), (None, "1")]
    )
    assert sorted(row["id"] for row in rows(read_labels(uri, ["id"], storage))) == ["a", "b", "f#4", "late", "图片"]
    found = reconcile(uri, storage)
    assert (found.labelled, found.superseded, found.duplicates) == (5, 5, 0)
    assert found.rejected == {
        "duplicate_id": 2, "image_corrupt": 1, "image_not_found": 1, "missing_id": 1, "source_unreadable": 1
    }  # fmt: skip


def test_any_history_of_rejects(tmp_path):
    """Against the rule, spelt out row by row."""
    chance = random.Random(0)
    for case in range(15):
        output = open_output(str(tmp_path / f"{case}"), Storage())
        ids = [f"{i}" for i in range(chance.randint(1, 12))]
        labelled = {id for id in ids if chance.random() < 0.4}
        write(output, "labels/a", *map(label, labelled))
        history = [
            reject(chance.choice([*ids, None]), chance.choice(["image_corrupt", "duplicate_id"]), minute, "f#1")
            for minute in chance.sample(range(100), 20)
        ]
        for i in range(0, 20, 7):
            write(output, f"rejects/{i:02d}", *history[i : i + 7])

        def superseded(row: dict, history: list[dict] = history, labelled: set[str] = labelled) -> bool:
            later = [other for other in history if other["rejected_at"] > row["rejected_at"]]
            again = any(other["id"] == row["id"] and other["error"] != "duplicate_id" for other in later)
            return row["error"] != "duplicate_id" and (row["id"] in labelled or again)

        found = [row["superseded"] for row in rows(read_rejects(output.uri, superseded=True))]
        assert found == [superseded(row) for row in history]
        assert reconcile(output.uri).superseded == sum(found)


def test_planted_duplicates_are_counted(tmp_path):
    output = open_output(str(tmp_path), Storage())
    write(output, "labels/a", *map(label, ["a", "b", "c", "b"]))
    write(output, "labels/b", *map(label, ["b", "c", "d"]))
    found = reconcile(tmp_path)
    assert (found.labelled, found.duplicates) == (4, 2)


def test_the_columns_asked_for(tmp_path):
    output = open_output(str(tmp_path), Storage())
    write(output, "labels/a", label("a"))
    assert rows(read_labels(tmp_path, ["kept_indices", "id"])) == [{"kept_indices": [1, 5], "id": "a"}]
    assert [batch.schema for batch in read_labels(tmp_path)] == [schema.LABELS]
    with pytest.raises(UsageError, match=r"no column 'anwser'; there are id, image,.* answer"):
        read_labels(tmp_path, ["id", "anwser"])


def test_labels_are_picked_by_their_places(place):
    uri, storage = place
    output = open_output(uri, storage)
    for name in ("a", "b", "c"):
        write(output, f"labels/{name}", *(label(f"{name}{n}") for n in range(5)))
    everything = rows(read_labels(uri, ["id"], storage, numbered=True))
    wanted = {(row["file"], row["row"]): row["id"] for row in everything if row["id"] in ("a0", "a4", "c2")}
    found = pick_labels(uri, wanted, ["id", "kept_indices"], storage)
    assert found == {spot: {"id": id, "kept_indices": [1, 5]} for spot, id in wanted.items()}
    with pytest.raises(UsageError, match="no column 'anwser'"):
        pick_labels(uri, wanted, ["anwser"], storage)


def test_who_counts_is_shown_the_rejects_that_hold(tmp_path):
    output = open_output(str(tmp_path), Storage())
    write(output, "labels/a", label("a"))
    write(output, "rejects/a", reject("a", "image_empty", 1), reject("b", "image_empty", 2), reject("b", "bad_row", 3))
    shown: list[pa.RecordBatch] = []
    reconcile(tmp_path, on_rejects=shown.append)
    assert rows(shown) == rows(read_rejects(tmp_path)) and [row["error"] for row in rows(shown)] == ["bad_row"]


def test_properties_of_answers_are_columns(tmp_path):
    """Also beside files of runs that had no schema, or another one."""
    output = open_output(str(tmp_path), Storage())
    write(output, "labels/0", label("a"))
    for number, (name, type, value) in enumerate([("colour", "string", "red"), ("many", "integer", 3)], 1):
        fields = fields_of(json.dumps({"type": "object", "properties": {name: {"type": type}}}), schema.RESULTS.names)
        table = pa.Table.from_pylist([label(name) | {name: value}], schema=schema.labels_schema(fields))
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        output.put(f"labels/{number}.parquet", buffer.getvalue().to_pybytes())
    assert [batch.schema.names[len(schema.LABELS) :] for batch in read_labels(tmp_path)] == [[], ["colour"], ["many"]]
    assert [batch.num_columns for batch in read_labels(tmp_path, ["id"])] == [1, 1, 1]
    assert rows(read_labels(tmp_path, ["many", "id"])) == [
        {"many": None, "id": "a"}, {"many": None, "id": "colour"}, {"many": 3, "id": "many"},
    ]  # fmt: skip
    with pytest.raises(UsageError, match="labels have no column 'much'"):
        read_labels(tmp_path, ["many", "much"])


def test_an_output_without_labels_or_rejects(tmp_path):
    open_output(str(tmp_path), Storage()).put("runs/r.json", b"{}")
    assert rows(read_labels(tmp_path)) == rows(read_rejects(tmp_path)) == []
    found = reconcile(tmp_path)
    assert (found.labelled, found.rejected, found.superseded, found.duplicates) == (0, {}, 0, 0)


@pytest.mark.parametrize("read", [read_labels, read_rejects, reconcile])
def test_what_is_no_output(read, tmp_path):
    with pytest.raises(UsageError, match=r"none is no output of a labelling job"):
        read(tmp_path / "none")


def test_a_bucket_that_is_not_there(s3):
    storage = Storage.from_environment(environment=s3.environment)
    with pytest.raises(UsageError, match=r"s3://no-such-bucket/out can't be read: .*NoSuchBucket"):
        reconcile("s3://no-such-bucket/out", storage)


def test_it_needs_neither_ray_nor_torch():
    code = "import sys, adafv.pipeline.outputs.reader; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_files_of_earlier_versions_have_nulls_for_what_they_lack(tmp_path):
    """Both columns and fields of their images."""
    output = open_output(str(tmp_path), Storage())
    fields = [field for field in schema.IMAGES.value_type if field.name not in ("uri", "key")]
    before = schema.LABELS.remove(schema.LABELS.get_field_index("image_uri"))
    place = before.get_field_index("images")
    before = before.set(place, pa.field("images", pa.list_(pa.struct(fields))))
    old = label("old") | {"images": [{"image": "old.jpg", "panels": 1}]}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([old], schema=before), buffer)
    output.put("labels/0.parquet", buffer.getvalue().to_pybytes())
    new = label("new") | {"image_uri": "/new.jpg", "images": [{"image": "new.jpg", "uri": "/new.jpg"}]}
    write(output, "labels/1", new)
    columns = schema.REJECTS.remove(schema.REJECTS.get_field_index("image_uri"))
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([reject("r", "image_corrupt", 1)], schema=columns), buffer)
    output.put("rejects/0.parquet", buffer.getvalue().to_pybytes())
    found = {row["id"]: row for row in rows(read_labels(tmp_path, ["id", "images", "image_uri"]))}
    assert found["old"]["image_uri"] is None and found["old"]["images"][0]["uri"] is None
    assert found["new"]["images"][0]["uri"] == "/new.jpg"
    assert rows(read_rejects(tmp_path))[0]["image_uri"] is None
