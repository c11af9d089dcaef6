"""S3 objects as files: what is read is what the object holds, or there is an error, whatever the store does."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.store import objects, retry
from adafv.pipeline.store.objects import ATTEMPTS, READ_AHEAD, WHOLE
from adafv.pipeline.store.storage import Storage
from tests.faulty_store import Fault, FaultyStore

DATA = os.urandom(3 * 2**20)
PASSING = ("slow_down", "unavailable", "expired", "skewed", "reset", "reset_body", "truncated", "short", "long")


@pytest.fixture
def place(s3, monkeypatch):
    """The bucket, and a store that holds `data` as its object `x`, without pauses between attempts."""
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="x", Body=DATA)
    with FaultyStore(s3.endpoint) as store:
        filesystem, path = Storage.from_environment(store.endpoint, s3.environment).filesystem(f"s3://{bucket}/x")
        yield store, filesystem, path


@pytest.mark.parametrize("kind", [*PASSING, "flipped"])
def test_a_stream_is_whole_or_an_error(place, kind):
    store, filesystem, path = place
    store.faults = (Fault(kind, first=2),)
    with filesystem.open_input_stream(path) as stream:
        assert stream.read() == DATA and store.count(kind) == 2
    store.faults = (Fault(kind),)
    with filesystem.open_input_stream(path) as stream, pytest.raises(OSError, match="s3://"):
        stream.read(100)
    assert store.count(kind) == 2 + ATTEMPTS


@pytest.mark.parametrize("kind", PASSING)
def test_a_range_is_whole_or_an_error(place, kind):
    store, filesystem, path = place
    store.faults = (Fault(kind, first=2),)
    with filesystem.open_input_file(path) as file:
        assert file.read_at(100_000, 50_000) == DATA[50_000:150_000] and store.count(kind) == 2
        assert file.size() == len(DATA) and file.read_at(10, len(DATA)) == b""
        store.faults = (Fault(kind),)
        with pytest.raises(OSError, match="s3://"):
            file.read_at(100_000, 200_000)


def test_a_trickle_ends_at_the_deadline(place, monkeypatch):
    store, filesystem, path = place
    monkeypatch.setattr(objects, "DEADLINE", 0.1)
    store.faults = (Fault("slow"),)
    with filesystem.open_input_file(path) as file, pytest.raises(OSError, match="of 200000 came in 0 s"):
        file.read_at(200_000, 0)


@pytest.mark.parametrize(("kind", "code"), [("denied", "AccessDenied"), ("unknown_key", "InvalidAccessKeyId")])
def test_what_stays_is_not_asked_for_again(place, kind, code):
    store, filesystem, path = place
    store.faults = (Fault(kind),)
    with filesystem.open_input_file(path) as file, pytest.raises(OSError, match=code):
        file.read(1)
    assert store.count(kind) == 1


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture(place, s3):
    _, filesystem, path = place
    with filesystem.open_input_file(path) as file:
        file.read_at(10, 0)
        s3.client.put_object(Bucket=path.partition("/")[0], Key="x", Body=os.urandom(len(DATA)))
        with pytest.raises(OSError, match="replaced while it was being read"):
            file.read_at(10, 10)


def test_large_objects_are_read_in_blocks(place, s3, monkeypatch):
    store, filesystem, path = place
    monkeypatch.setattr(objects, "WHOLE", 2**20)
    monkeypatch.setattr(objects, "READ_AHEAD", 2**19 + 1)
    store.faults = (Fault("short", after=2, first=1),)
    with filesystem.open_input_stream(path) as stream:
        pieces = [stream.read(1000), stream.read(2**20), stream.read()]
    assert [len(piece) for piece in pieces[:2]] == [1000, 2**20] and b"".join(pieces) == DATA
    assert store.count("short") == 1
    assert READ_AHEAD < WHOLE, "what is checked against its MD5 is what is held in memory"


def test_parquet(place, s3):
    _, filesystem, path = place
    table = pa.table({"id": [f"{i}" for i in range(10_000)], "x": [i * 0.5 for i in range(10_000)]})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=1000)
    s3.client.put_object(Bucket=path.partition("/")[0], Key="x", Body=buffer.getvalue().to_pybytes())
    assert pq.read_table(path, filesystem=filesystem).equals(table)
    with filesystem.open_input_file(path) as file:
        assert pq.ParquetFile(file).read_row_group(3, ["id"])["id"].to_pylist() == table["id"].to_pylist()[3000:4000]


def test_nothing_there(place):
    _, filesystem, path = place
    with pytest.raises(FileNotFoundError, match="there is nothing"):
        filesystem.open_input_file(path + "y")
    with pytest.raises(NotImplementedError, match="only read from"):
        filesystem.delete_file(path)


def test_listing(place, s3, monkeypatch):
    """All pages of a folder, and only that folder; what is there under a name. What passes is asked for again."""
    monkeypatch.setattr(objects, "PAGE", 2)
    store, filesystem, path = place
    bucket = path.partition("/")[0]
    for key in ("f/1", "f/2", "f/sub/3", "f/sub/4", "f/5", "f/marker/", "f-beside"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=b"12")
    store.faults = (Fault("slow_down", first=2), Fault("reset", after=2, first=2))
    found = filesystem.get_file_info(pafs.FileSelector(f"{bucket}/f", recursive=True))
    names = {info.path.removeprefix(f"{bucket}/f/"): info.type for info in found}
    files = dict.fromkeys(("1", "2", "sub/3", "sub/4", "5"), pafs.FileType.File)
    assert names == files | {"marker/": pafs.FileType.Unknown}, "which has bytes, and is counted as passed over"
    assert store.count() == 4
    kinds = {"x": pafs.FileType.File, "f": pafs.FileType.Directory, "f-": pafs.FileType.NotFound}
    for name, kind in kinds.items():
        assert filesystem.get_file_info(f"{bucket}/{name}").type == kind
    info = filesystem.get_file_info(path)
    assert info.size == len(DATA) and info.mtime_ns > 0
