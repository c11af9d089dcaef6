"""Input files on a store that fails, and files that are replaced: rows are right, or they are rejects; never fewer."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.sources import discovery, tables
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import Row, row_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store import retry
from adafv.pipeline.store.storage import Storage
from tests.faulty_store import Fault, FaultyStore
from tests.pipeline.inputs import ROWS, write_all, write_jsonl
from tests.pipeline.pictures import SOUND

COLUMNS = Columns(id="id", image="image", question="question", prompt="{question}", prompt_columns=("question",))
FORMATS = ("uris", "bytes", "structs", "jsonl", "tar")
FAULTS = ("reset_body", "truncated", "short", "slow_down", "denied")  # tests of `objects` have the others


def rows_of(units: tuple[Unit, ...], storage: Storage, images: bool = True) -> list[Row]:
    return [row_of(record, COLUMNS) for unit in units for record in read_unit(unit, storage, COLUMNS, images)]


def check(rows: list[Row]) -> None:
    """All the rows, as they were written."""
    assert [row.reject for row in rows] == [None] * len(ROWS)
    assert [(row.id, row.question) for row in rows] == [(row["id"], row["question"]) for row in ROWS]
    for row, written in zip(rows, ROWS, strict=True):
        assert row.images[0].uri or row.images[0].data == SOUND[written["image"]]


@pytest.fixture
def without_pauses(monkeypatch):
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)


@pytest.mark.parametrize("name", FORMATS)
def test_faults_of_the_store(s3, tmp_path, without_pauses, name):
    path = write_all(tmp_path)[name]
    bucket = s3.new_bucket()
    s3.client.upload_file(str(path), bucket, path.name)
    with FaultyStore(s3.endpoint) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        for kind in FAULTS:
            passing = kind != "denied"
            store.faults = (Fault(kind, key=f"/{bucket}/*", first=2),) if passing else ()
            units = discovery.open_source(f"s3://{bucket}/{path.name}", storage, COLUMNS).units
            store.faults = (Fault(kind, key=f"/{bucket}/*", first=3),) if passing else ()
            check(rows_of(units, storage))
            store.faults = (Fault(kind, key=f"/{bucket}/*"),)
            for row in rows_of(units, storage) + rows_of(units, storage, images=False):
                assert row.reject is not None and row.reject.error == "source_unreadable" and row.reject.retryable, kind
            assert store.count(kind)


@pytest.mark.parametrize(("kind", "error"), [("denied", UsageError), ("expired", RunError)])
def test_a_store_that_refuses_from_the_start(s3, tmp_path, without_pauses, kind, error):
    """What can't be listed or told apart ends the command: credentials that expired can be had anew, and another run
    goes on. A file that can't be opened is a reject."""
    bucket = s3.new_bucket()
    for name, path in write_all(tmp_path).items():
        s3.client.upload_file(str(path), bucket, f"{name}/{path.name}")
    s3.client.upload_file(str(tmp_path / "rows.jsonl"), bucket, "nameless")
    with FaultyStore(s3.endpoint, [Fault(kind)]) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        with pytest.raises(error, match="can't be read"):
            discovery.open_source(f"s3://{bucket}/nameless", storage, COLUMNS)
        for name in ("uris/uris.parquet", "jsonl/rows.jsonl", "tar/rows.tar"):
            units = discovery.open_source(f"s3://{bucket}/{name}", storage, COLUMNS).units
            (row,) = rows_of(units, storage)
            assert row.reject is not None and row.reject.error == "source_unreadable" and "S3" in row.reject.message
        with pytest.raises(error, match=f"s3://{bucket}/uris can't be"):
            discovery.open_source(f"s3://{bucket}/uris", storage, COLUMNS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("on_s3", [False, True])
def test_a_file_that_was_replaced_is_not_read(request, tmp_path, name, on_s3):
    """The plan speaks of its rows by number. A row must not be taken for another that was done before."""
    path = write_all(tmp_path)[name]
    uri, storage, put = str(path), Storage(), lambda: None
    if on_s3:
        s3 = request.getfixturevalue("s3")
        bucket, storage = s3.new_bucket(), Storage.from_environment(environment=s3.environment)
        uri = f"s3://{bucket}/{path.name}"
        put = lambda: s3.client.upload_file(str(path), bucket, path.name)  # noqa: E731
    put()
    units = discovery.open_source(uri, storage, COLUMNS).units
    check(rows_of(units, storage))
    _grow(path)
    put()
    (row,) = rows_of(units, storage)
    assert row.reject is not None and "replaced after the run began" in row.reject.message and row.reject.retryable


def _grow(path: Path) -> None:
    """Another version of the file, of another size."""
    write_jsonl(path, [{"id": "new", "image": "plain.jpg", "question": "w1"}, *ROWS])


def test_pages_with_checksums_are_checked(tmp_path):
    """Other writers' files, too: a byte that changed on the disk is no other question."""
    path = tmp_path / "x.parquet"
    table = pa.Table.from_pylist([row | {"question": "w1 " * 50} for row in ROWS])
    pq.write_table(
        table, path, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"w1 w1 w1") + 30] ^= 1
    path.write_bytes(data)
    rows = rows_of(discovery.open_source(str(path), Storage(), COLUMNS).units, Storage())
    assert [(row.id, row.reject and row.reject.error) for row in rows] == [
        (row["id"], "source_unreadable") for row in ROWS
    ]


def test_a_large_row_group_is_not_read_at_once(tmp_path, monkeypatch):
    """Pandas makes one of a million rows, whose images no memory holds."""
    monkeypatch.setattr(tables, "AHEAD", 2**14)
    images = [bytes([number]) * 1000 for number in range(100)]
    path = tmp_path / "x.parquet"
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    pq.write_table(pa.table({"image": images}), path, **options)
    sizes = []

    class Read(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            sizes.append(size)
            return super().read(size)

    with Read(path) as raw:
        file, _ = tables.open_parquet(pa.PythonFile(raw, "r"))
        sizes.clear()
        assert [batch["image"].to_pylist() for batch in file.iter_batches(1)] == [[image] for image in images]
    assert max(sizes) <= 2**14


def test_row_groups_without_a_row_of_use_are_not_read(tmp_path):
    """Their images are damaged here, which nobody sees; numbers and places of the others are as ever."""
    rows = [{"id": f"row-{i}", "image": bytes([i]) * 500, "question": f"{i}?"} for i in range(8)]
    path = tmp_path / "rows.parquet"
    options = {"compression": "none", "write_page_checksum": True, "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2, **options)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x02" * 500, b"\x63" * 500))
    [unit] = discovery.open_source(str(path), Storage(), COLUMNS).units
    idle = [True, False, True, True, True, True]
    found = list(read_unit(unit, Storage(), COLUMNS, idle=idle))
    assert [record.place for record in found] == [f"{path}#{i}" for i in range(8)]
    assert [record.reject for record in found] == [None] * 8
    assert [found[i].columns["id"] for i in (0, 1, 6, 7)] == ["row-0", "row-1", "row-6", "row-7"]
    assert not any(record.columns for record in found[2:6])
    (damaged, _) = list(read_unit(unit, Storage(), COLUMNS))[2:4]
    assert damaged.reject is not None
