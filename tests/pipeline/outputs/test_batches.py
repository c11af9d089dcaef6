"""Files read back several at a time, in order, and never too many."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.outputs.batches import read_batches
from adafv.pipeline.outputs.folder import LocalOutput
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
    together = threading.Barrier(4, timeout=20)  # breaks, and with it the reading, where fewer than four come at once
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
