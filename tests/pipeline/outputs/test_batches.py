"""Files read back several at a time, in order, and never too many."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.outputs import batches as module
from adafv.pipeline.outputs.batches import pick_rows, read_batches
from adafv.pipeline.store.output import LocalOutput
from tests.pipeline.inputs import write_uris


def write_labels(folder, files: int) -> LocalOutput:
    (folder / "labels").mkdir()
    for i in range(files):
        write_uris(folder / "labels" / f"{i:03d}.parquet", [{"id": f"{i}-{row}", "answer": "x"} for row in range(3)])
    return LocalOutput(str(folder))


def opening(output: LocalOutput, before) -> SimpleNamespace:
    """`output`, with `before` called before each file is opened."""

    def open_input_file(path: str) -> pa.NativeFile:
        before()
        return output.filesystem.open_input_file(path)

    return SimpleNamespace(filesystem=SimpleNamespace(open_input_file=open_input_file))


def ids(batches) -> list[str]:
    return [id for batch in batches for id in batch.column("id").to_pylist()]


@pytest.mark.parametrize("files", [0, 1, 3, 20])
def test_each_row_once_and_in_order(tmp_path, files):
    output = write_labels(tmp_path, files)
    batches = list(read_batches(output, output.parquet_files("labels"), ["id"], ahead=3))
    assert ids(batches) == [f"{i}-{row}" for i in range(files) for row in range(3)]
    assert all(batch.schema.names == ["id"] for batch in batches)


def test_files_are_opened_at_the_same_time(tmp_path):
    output = write_labels(tmp_path, 8)
    together = threading.Barrier(4, timeout=60)  # breaks, and with it the reading, where fewer than four come at once
    slow = opening(output, together.wait)
    assert len(ids(read_batches(slow, output.parquet_files("labels"), ["id"], ahead=4))) == 24


def test_no_more_files_are_read_than_allowed(tmp_path):
    output, opened = write_labels(tmp_path, 12), []
    counted = opening(output, lambda: opened.append(1))
    for used, _ in enumerate(read_batches(counted, output.parquet_files("labels"), ["id"], ahead=2)):
        assert len(opened) <= used + 1 + 2


def test_a_file_that_is_damaged_is_named(tmp_path):
    output = write_labels(tmp_path, 3)
    (tmp_path / "labels" / "001.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(OSError, match=r"labels/001\.parquet: "):
        list(read_batches(output, output.parquet_files("labels"), ["id"], ahead=2))


def test_a_file_of_something_else_is_named(tmp_path):
    output = write_labels(tmp_path, 1)
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "labels" / "foreign.parquet")
    with pytest.raises(OSError, match=r"foreign\.parquet has no column id; it is no file of a labelling job"):
        list(read_batches(output, output.parquet_files("labels"), ["id"], ahead=2))


def test_a_row_is_found_again_by_its_place(tmp_path):
    output = write_labels(tmp_path, 5)
    batches = list(read_batches(output, output.parquet_files("labels"), ["id"], ahead=2, numbered=True))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert len(rows) == 15
    for row in rows:
        assert pick_rows(output, row["file"], [row["row"]], ["id"]) == {row["row"]: {"id": row["id"]}}


def test_rows_are_picked_from_any_row_group_and_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 4)
    path = tmp_path / "labels" / "0.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"id": [f"{n}" for n in range(100)]}), path, row_group_size=10)
    output = LocalOutput(str(tmp_path))
    for wanted in ([0], [99], [37], [9, 10], [13, 14, 15, 16, 39], list(range(100)), []):
        assert pick_rows(output, str(path), wanted[::-1], ["id"]) == {number: {"id": f"{number}"} for number in wanted}


def test_a_file_without_the_column_that_is_picked_is_named(tmp_path):
    output = write_labels(tmp_path, 1)
    [path] = output.parquet_files("labels")
    with pytest.raises(OSError, match=r"000\.parquet has no column grid; it is no file of a labelling job"):
        pick_rows(output, path, [0], ["grid"])
