"""Reads the input formats: a `Unit` in, its records out, in order, one at a time.

A unit is what one task reads: some row groups of a Parquet file, a JSONL file, a tar, or a few hundred images.
Planning, which needs only ids, and the run use the same readers. Both must count records alike, since the plan refers
to records by number; a file replaced in between is not read. A row with several questions is several records
(`questions`). An unreadable file, or rest of a file, gives one record with a reject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.csv_text import read_csv
from adafv.pipeline.sources.json_text import read_json
from adafv.pipeline.sources.questions import expand
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record, partition, without_nan
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.sidecars import sidecar_values
from adafv.pipeline.sources.tables import counting, open_parquet, readers_of
from adafv.pipeline.sources.tars import read_tar
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, Unit, UnitReading, open_file
from adafv.pipeline.sources.values import ArrayReader
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.where import holds

PARQUET_BATCH = 64  # rows in memory at once; fewer if their images take more than
BATCH_BYTES = 64 * 2**20
ColumnReaders = Mapping[str, ArrayReader]
Reader = Callable[[UnitReading], Iterator[Record]]


def read_unit(
    unit: Unit,
    storage: Storage,
    columns: Columns,
    images: bool = True,
    idle: Sequence[bool] = (),
    passed: PassedOver | None = None,
) -> Iterator[Record]:
    """The records of a unit, in order; without `images`, perhaps only ids and texts.

    Args:
        idle: which of the first records nobody needs. They may come without columns.
        passed: counts what makes no row.
    """
    given = PassedOver() if passed is None else passed
    return FORMATS[unit.format].read(UnitReading(unit, storage, columns, images, idle, given))


def _asking(read: Reader) -> Reader:
    """A reader of a file's records, as a reader of the records that are asked."""
    return lambda reading: (one for record in read(reading) for one in _asked(record, reading))


def _asked(record: Record, reading: UnitReading) -> Iterator[Record]:
    """The records of a record: one per question, none if `--where` doesn't hold. A rejected one may lack columns that
    tell."""
    unit, columns = reading.unit, reading.columns
    placed = columns.id == BY_PLACE and (unit.format == "parquet" or record.reject is None)
    given = {BY_PLACE: unit.name + record.place.removeprefix(unit.uri)} if placed else {}
    record = replace(record, columns=given | partition(record.root) | record.columns)
    told = record.reject is None or all(name in record.columns for name in columns.filtered)
    if columns.where is not None and told:
        try:
            if not holds(columns.where, record.columns):
                reading.passed.add("rows", "--where doesn't hold for them", record.place)
                return iter(())
        except (TypeError, RecursionError) as error:  # the latter for deep nesting
            problem = Reject("bad_row", f"--where compares what can't be: {error}")
            record = replace(record, reject=record.reject or problem)
    known = {name: without_nan(record.columns[name]) for name in columns.wanted if name in record.columns}
    record = replace(record, columns=record.columns | known)
    return expand(record, columns, id_of(known.get(columns.id)))


def _read_parquet(reading: UnitReading) -> Iterator[Record]:
    """The rows of some row groups. Groups with only idle rows are skipped, so a small sample reads little of a large
    data set. Rows with a damaged image column are rejected by id."""
    unit, columns = reading.unit, reading.columns
    number, done = unit.first, 0
    try:
        with open_file(unit, reading.storage) as source:
            file, schema = open_parquet(source)
            readers = readers_of(schema, columns)
            counted = {name: readers[name] for name in counting(schema, columns) if name in readers}
            wanted = readers if reading.images else counted
            single = columns.where is None and not counted.keys() - {columns.id}  # each row is one record
            for group in unit.groups:
                known = done < len(reading.idle) or (reading.images and columns.where is not None)
                count = _count(file, group, counted, reading, single) if known else None
                if count is not None and [*reading.idle[done : done + count]] == [True] * count:
                    yield from (reading.record(number + i, {}) for i in range(count))
                    done += count
                else:
                    for row, (values, reject) in enumerate(_read_group(file, group, wanted, counted, single), number):
                        for one in _asked(reading.record(row, values), reading):  # as if no other column were damaged
                            yield one if reject is None else replace(one, reject=reject)
                            done += 1
                number += file.metadata.row_group(group).num_rows
    except READ_ERRORS as error:
        yield reading.rest_unreadable(number, error)


def _count(file: pq.ParquetFile, group: int, narrow: ColumnReaders, reading: UnitReading, single: bool) -> int | None:
    """How many records a row group has; None if it is damaged: reading it shows where."""
    if single:
        return file.metadata.row_group(group).num_rows
    uncounted = replace(reading, passed=PassedOver())
    rows = _read_group(file, group, narrow, narrow, single)
    try:
        return sum(1 for row in rows for _ in _asked(reading.record("", *row), uncounted))
    except READ_ERRORS:
        return None


def _read_group(
    file: pq.ParquetFile, group: int, wanted: ColumnReaders, narrow: ColumnReaders, single: bool
) -> Iterator[tuple[dict[str, Any], Reject | None]]:
    """The rows of a group. If the `wanted` columns are damaged, the rest is rejected by id from the `narrow` ones, as a
    pass over these alone counts them.

    If these are damaged, too, and each row is a `single` record, the rest is rejected without ids. If the number of
    records per row depends on them, later records have no number, and the error is raised.
    """
    done = 0
    try:
        for batch in file.iter_batches(_batch_size(file, group, wanted), row_groups=[group], columns=list(wanted)):
            for values in _values(batch, wanted):
                yield values, None
                done += 1
    except READ_ERRORS as error:
        if wanted == narrow and not single:
            raise
        reject = Reject("source_unreadable", f"row group {group}: {type(error).__name__}: {error}")
        if wanted == narrow:
            left = file.metadata.row_group(group).num_rows - done
            yield from ((dict.fromkeys(narrow), reject) for _ in range(left))
            return
        for values, _ in islice(_read_group(file, group, narrow, narrow, single), done, None):
            yield values, reject


def _batch_size(file: pq.ParquetFile, group: int, wanted: ColumnReaders) -> int:
    """How many of a group's rows fit into `BATCH_BYTES`, at most `PARQUET_BATCH`."""
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(number) for number in range(metadata.num_columns))
    size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.partition(".")[0] in wanted)
    return max(1, min(PARQUET_BATCH, BATCH_BYTES * metadata.num_rows // max(1, size)))


def _values(batch: pa.RecordBatch, readers: ColumnReaders) -> Iterator[dict[str, Any]]:
    """The rows of a batch as Python values."""
    if not readers:
        return ({} for _ in range(batch.num_rows))
    columns = [reader(batch.column(batch.schema.get_field_index(name))) for name, reader in readers.items()]
    return (dict(zip(readers, values, strict=True)) for values in zip(*columns, strict=True))


def _read_images(reading: UnitReading) -> Iterator[Record]:
    """One record per image file; its id is its path in the folder. The fetch stage gets the bytes. Without `images`,
    sidecar files aren't read.

    With an image root, which may be another folder, images are named by their full path.
    """
    unit, columns = reading.unit, reading.columns
    found: Sequence[tuple[dict[str, Any], Reject | None]] = [({}, None)] * len(unit.members)
    filtered = columns.where is not None
    until = unit.found_at if filtered else None
    if unit.sidecars and (reading.images or filtered):
        with ThreadPoolExecutor(16) as threads:
            values_of = partial(sidecar_values, unit.uri, storage=reading.storage, columns=columns, found_at=until)
            found = [*threads.map(values_of, unit.sidecars)]
    for number, (member, (texts, reject)) in enumerate(zip(unit.members, found, strict=True)):
        if filtered and reject is not None and reject.error == "source_unreadable":  # later records have no number
            yield reading.rest_unreadable(number, OSError(reject.message))
            return
        place = clean(f"{unit.uri.rstrip('/')}/{member}")
        values = {columns.id: member, columns.image: member if columns.image_root is None else place}
        if clean(member) != member:
            reject = Reject("bad_row", "the file's name isn't UTF-8; rename it (convmv -f latin1 -t utf8 may do that)")
        yield Record(place, unit.root, texts | values, reject)


def _read_nothing(reading: UnitReading) -> Iterator[Record]:
    """One record that stands for a file that can't be opened."""
    unit = reading.unit
    yield Record(unit.uri, unit.root, {}, Reject("source_unreadable", unit.problem))


@dataclass(frozen=True)
class Format:
    """An input format.

    Attributes:
        read: the records to ask, in order.
        extensions: what its files' names end with. Compression is detected by content; names may tell it, too.
        in_folders: whether such tables are read if only their folder is named; None if it is no table.
    """

    read: Reader
    extensions: tuple[str, ...] = ()
    in_folders: bool | None = None


def _packed(*extensions: str) -> tuple[str, ...]:
    return tuple(one + packing for one in extensions for packing in PACKED)


PACKED = ("", ".gz", ".bz2", ".xz", ".zst", ".lz4")
TARS = (*_packed(".tar"), ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
FORMATS = {
    "parquet": Format(_read_parquet, (".parquet", ".pq"), in_folders=True),
    "jsonl": Format(_asking(read_json), _packed(".jsonl", ".ndjson"), in_folders=True),
    "tar": Format(_asking(read_tar), TARS, in_folders=True),
    "csv": Format(_asking(read_csv), _packed(".csv", ".tsv"), in_folders=False),
    "images": Format(_asking(_read_images), IMAGE_EXTENSIONS),
    "unreadable": Format(_asking(_read_nothing)),
}
