"""Reading the input formats: a `Unit` of input in, its records out, in order, one at a time.

A unit is what one task reads: some row groups of a Parquet file, a JSONL file, a tar, or a few hundred images. The
same readers serve the planning pass, which needs only ids and skips the images, and the run itself; both must count
records alike, because the plan speaks of a unit's records by number; a file that was replaced in between is not read. A
row that asks several questions is as many records (`questions`). A file that can't be read, or whose end can't, gives a
record with a reject in place of what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.csv_text import read_csv
from adafv.pipeline.sources.json_text import read_json, rest_unreadable
from adafv.pipeline.sources.neighbours import values_beside
from adafv.pipeline.sources.questions import expand
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record, partition, without_nan
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.tables import counting, open_parquet, readers_of
from adafv.pipeline.sources.tars import read_tar
from adafv.pipeline.sources.units import READ_ERRORS, Unit, open_file
from adafv.pipeline.sources.values import ArrayReader
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.where import holds

PARQUET_BATCH = 64  # rows held at once; they may carry images, and are fewer where these take more than
BATCH_BYTES = 64 * 2**20
Readers = Mapping[str, ArrayReader]  # by column


def read(
    unit: Unit,
    storage: Storage,
    columns: Columns,
    images: bool = True,
    idle: Sequence[bool] = (),
    passed: PassedOver | None = None,
) -> Iterator[Record]:
    """The records of a unit, in order; without `images`, ids and texts may be all there is.

    Args:
        idle: which of the first records nobody has a use for. They may come without their columns.
        passed: takes up what the unit shows besides.
    """
    passed = PassedOver() if passed is None else passed
    if unit.format == "parquet":
        return _read_parquet(unit, storage, columns, images, idle, passed)
    records = READERS[unit.format](unit, storage, columns, images, passed)
    return (one for record in records for one in _asked(record, unit, columns, passed))


def _asked(record: Record, unit: Unit, columns: Columns, passed: PassedOver) -> Iterator[Record]:
    """The records that a record is: one for each of its questions, none where `--where` doesn't hold for it."""
    placed = columns.id == BY_PLACE and (unit.format == "parquet" or record.reject is None)
    given = {BY_PLACE: unit.name + record.place.removeprefix(unit.uri)} if placed else {}
    record = replace(record, columns=given | partition(record.root) | record.columns)
    if columns.where is not None and record.reject is None:
        try:
            if not holds(columns.where, record.columns):
                passed.add("rows", "--where doesn't hold for them", record.place)
                return iter(())
        except TypeError as error:
            record = replace(record, reject=Reject("bad_row", f"--where compares what can't be: {error}"))
    known = {name: without_nan(record.columns[name]) for name in columns.wanted if name in record.columns}
    record = replace(record, columns=record.columns | known)
    return expand(record, columns, id_of(known.get(columns.id)))


def _read_parquet(
    unit: Unit, storage: Storage, columns: Columns, images: bool, idle: Sequence[bool], passed: PassedOver
) -> Iterator[Record]:
    """The rows of some row groups; those of which all rows are idle are not read, which spares a small sample most of a
    data set with its images. Rows whose image column is damaged are rejected by id."""
    number, done = unit.first, 0
    try:
        with open_file(unit, storage) as source:
            file, schema = open_parquet(source)
            readers = readers_of(schema, columns)
            counted = {name: readers[name] for name in counting(schema, columns) if name in readers}
            wanted = readers if images else counted
            for group in unit.groups:
                known = done < len(idle) or (images and columns.where is not None)
                count = _count(file, group, counted, columns, unit) if known else 0
                unneeded = idle[done : done + count]
                if known and len(unneeded) == count and all(unneeded):
                    yield from (Record(f"{unit.uri}#{number + i}", unit.root, {}) for i in range(count))
                    done += count
                else:
                    for row, (values, reject) in enumerate(_read_group(file, group, wanted, counted), number):
                        record = Record(f"{unit.uri}#{row}", unit.root, values, reject)
                        for one in _asked(record, unit, columns, passed):
                            yield one
                            done += 1
                number += file.metadata.row_group(group).num_rows
    except READ_ERRORS as error:
        yield rest_unreadable(unit, number, error)


def _count(file: pq.ParquetFile, group: int, narrow: Readers, columns: Columns, unit: Unit) -> int:
    """How many records a row group has."""
    if len(narrow) < 2 and columns.where is None:
        return file.metadata.row_group(group).num_rows
    records = (Record("", unit.root, values, reject) for values, reject in _read_group(file, group, narrow, narrow))
    return sum(1 for record in records for _ in _asked(record, unit, columns, PassedOver()))


def _read_group(
    file: pq.ParquetFile, group: int, wanted: Readers, narrow: Readers
) -> Iterator[tuple[dict[str, Any], Reject | None]]:
    """The rows of a group. Where the wanted columns are damaged, the rest is rejected by the narrow ones, as a pass
    over these alone has it.

    Where those are damaged, and are the ids alone, the rest is rejected without. But where how many records a row is
    hangs on them, what follows has no number any more, and the error is raised.
    """
    done = 0
    try:
        for batch in file.iter_batches(_batch_size(file, group, wanted), row_groups=[group], columns=list(wanted)):
            for values in _values(batch, wanted):
                yield values, None
                done += 1
    except READ_ERRORS as error:
        if wanted == narrow and len(narrow) > 1:
            raise
        reject = Reject("source_unreadable", f"row group {group}: {type(error).__name__}: {error}")
        if wanted == narrow:
            left = file.metadata.row_group(group).num_rows - done
            yield from ((dict.fromkeys(narrow), reject) for _ in range(left))
            return
        for values, _ in islice(_read_group(file, group, narrow, narrow), done, None):
            yield values, reject


def _batch_size(file: pq.ParquetFile, group: int, wanted: Readers) -> int:
    """How many of a group's rows fit into `BATCH_BYTES`, and at most `PARQUET_BATCH`."""
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(number) for number in range(metadata.num_columns))
    size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.partition(".")[0] in wanted)
    return max(1, min(PARQUET_BATCH, BATCH_BYTES * metadata.num_rows // max(1, size)))


def _values(batch: pa.RecordBatch, readers: Readers) -> Iterator[dict[str, Any]]:
    """The rows of a batch as Python values, one by one."""
    if not readers:
        return ({} for _ in range(batch.num_rows))
    columns = [reader(batch.column(batch.schema.get_field_index(name))) for name, reader in readers.items()]
    return (dict(zip(readers, values, strict=True)) for values in zip(*columns, strict=True))


def _read_images(unit: Unit, storage: Storage, columns: Columns, images: bool, passed: PassedOver) -> Iterator[Record]:
    """One record per image file; its id is its path in the folder. The bytes are the fetch stage's business. Without
    `images` what stands beside one is not read, either.

    The files lie in the folder that was listed. So with an image root, which needn't be that folder, they are told by
    their whole path.
    """
    beside: Sequence[tuple[dict[str, Any], Reject | None]] = [({}, None)] * len(unit.members)
    filtered = columns.where is not None
    until = unit.found_at if filtered else None
    if unit.beside and (images or filtered):
        with ThreadPoolExecutor(16) as threads:
            beside = [*threads.map(lambda names: values_beside(unit.uri, names, storage, columns, until), unit.beside)]
    for number, (member, (texts, reject)) in enumerate(zip(unit.members, beside, strict=True)):
        if filtered and reject is not None and reject.error == "source_unreadable":  # what follows has no number
            yield rest_unreadable(unit, number, OSError(reject.message))
            return
        place = f"{unit.uri.rstrip('/')}/{member}"
        values = {columns.id: member, columns.image: member if columns.image_root is None else place}
        yield Record(place, unit.root, texts | values, _misnamed(member) or reject)


def _misnamed(name: str) -> Reject | None:
    if clean(name) == name:
        return None
    return Reject("bad_row", "the file's name isn't UTF-8; rename it (convmv -f latin1 -t utf8 may do that)")


def _read_nothing(unit: Unit, storage: Storage, columns: Columns, images: bool, passed: PassedOver) -> Iterator[Record]:
    """What stands for a file that can't be opened at all: one record that says so."""
    yield Record(unit.uri, unit.root, {}, Reject("source_unreadable", unit.problem))


Reader = Callable[[Unit, Storage, Columns, bool, PassedOver], Iterator[Record]]
READERS: dict[str, Reader] = {  # of all but Parquet
    "jsonl": read_json,
    "csv": read_csv,
    "tar": read_tar,
    "images": _read_images,
    "unreadable": _read_nothing,
}
