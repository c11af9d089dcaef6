"""Reading the input formats: a `Unit` of input in, its records out, in order, one at a time.

A unit is what one task reads: some row groups of a Parquet file, a JSONL file, a tar, or a few hundred images. The
same readers serve the planning pass, which needs only ids and skips the images, and the run itself; both must count
records alike, because the plan speaks of a unit's records by number; a file that was replaced in between is not read. A
row that asks several questions is as many records (`questions`). A file that can't be read, or whose end can't, gives a
record with a reject in place of what is missing.
"""

from __future__ import annotations

import codecs
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.questions import expand
from adafv.pipeline.sources.records import Columns, Record, without_nan
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.tables import counting, open_parquet, readers_of
from adafv.pipeline.sources.values import ArrayReader
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PARQUET_BATCH = 64  # rows held at once; they may carry images, and are fewer where these take more than
BATCH_BYTES = 64 * 2**20
LINE_LIMIT = 16 * 2**20  # bytes of one JSONL line, or of one metadata member of a tar
READ_ERRORS = (OSError, EOFError, pa.ArrowException, tarfile.TarError, zlib.error)
_OPENING, _COMMA, _CLOSING = (re.compile(rf"[ \t\r\n]*{sign}[ \t\r\n]*") for sign in (r"\[", ",", r"\]"))
Stamp = tuple[int, int]  # size in bytes, and when it was modified, in ns
Readers = Mapping[str, ArrayReader]  # by column


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads.

    Attributes:
        format: a key of `READERS`.
        uri: the file, or the folder of images.
        groups: Parquet: the row groups, and `first`: the number of their first row in the file.
        members: images: paths relative to the folder.
        stamp: the file's `stamp_of` when it was found; it must be the same when it is read.
        problem: unreadable: why.
    """

    format: str
    uri: str
    groups: tuple[int, ...] = ()
    first: int = 0
    members: tuple[str, ...] = ()
    stamp: Stamp | None = None
    problem: str = ""

    @property
    def root(self) -> str:
        return self.uri if self.format == "images" else folder_of(self.uri)


def read(
    unit: Unit, storage: Storage, columns: Columns, images: bool = True, idle: Sequence[bool] = ()
) -> Iterator[Record]:
    """The records of a unit, in order; without `images`, ids and texts may be all there is.

    Args:
        idle: which of the first records nobody has a use for. They may come without their columns.
    """
    if unit.format == "parquet":
        return _read_parquet(unit, storage, columns, images, idle)
    records = READERS[unit.format](unit, storage, columns, images)
    return (one for record in records for one in _asked(record, columns))


def _asked(record: Record, columns: Columns) -> Iterator[Record]:
    known = {name: without_nan(record.columns[name]) for name in columns.wanted if name in record.columns}
    record = replace(record, columns=record.columns | known)
    return expand(record, columns, id_of(known.get(columns.id)))


def stamp_of(filesystem: pyarrow.fs.FileSystem, path: str) -> Stamp:
    """What tells one version of a file from another."""
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


def _open(unit: Unit, storage: Storage, streamed: bool) -> pa.NativeFile:
    """The unit's file, to be read from end to end or anywhere."""
    filesystem, path = storage.filesystem(unit.uri)
    file = (
        filesystem.open_input_stream(path, compression="detect", buffer_size=2**20)
        if streamed
        else filesystem.open_input_file(path)
    )
    if unit.stamp not in (None, stamp_of(filesystem, path)):
        file.close()
        raise OSError("it was replaced after the run began")
    return file


def _read_parquet(
    unit: Unit, storage: Storage, columns: Columns, images: bool, idle: Sequence[bool]
) -> Iterator[Record]:
    """The rows of some row groups; those of which all rows are idle are not read, which spares a small sample most of a
    data set with its images. Rows whose image column is damaged are rejected by id."""
    number, done = unit.first, 0
    try:
        with _open(unit, storage, streamed=False) as source:
            file, schema = open_parquet(source)
            readers = readers_of(schema, columns)
            counted = {name: readers[name] for name in counting(schema, columns) if name in readers}
            wanted = readers if images else counted
            for group in unit.groups:
                count = _count(file, group, counted, columns) if done < len(idle) else 0
                passed = idle[done : done + count]
                if count and len(passed) == count and all(passed):
                    yield from (Record(f"{unit.uri}#{number + i}", unit.root, {}) for i in range(count))
                    done += count
                else:
                    for row, (values, reject) in enumerate(_read_group(file, group, wanted, counted), number):
                        for one in _asked(Record(f"{unit.uri}#{row}", unit.root, values, reject), columns):
                            yield one
                            done += 1
                number += file.metadata.row_group(group).num_rows
    except READ_ERRORS as error:
        yield _rest_unreadable(unit, number, error)


def _count(file: pq.ParquetFile, group: int, narrow: Readers, columns: Columns) -> int:
    """How many records a row group has."""
    if len(narrow) == 1:
        return file.metadata.row_group(group).num_rows
    records = (Record("", "", values, reject) for values, reject in _read_group(file, group, narrow, narrow))
    return sum(1 for record in records for _ in _asked(record, columns))


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
    columns = [reader(batch.column(batch.schema.get_field_index(name))) for name, reader in readers.items()]
    return (dict(zip(readers, values, strict=True)) for values in zip(*columns, strict=True))


def _read_jsonl(unit: Unit, storage: Storage, columns: Columns, images: bool) -> Iterator[Record]:
    """The objects of a JSONL file, compressed or not; empty lines are none."""
    number = 0
    try:
        with _open(unit, storage, streamed=True) as stream:
            for line in _lines(stream):
                if line is None or line.strip():
                    yield _json_record(f"{unit.uri}#{number}", unit.root, line)
                    number += 1
    except READ_ERRORS as error:
        yield _rest_unreadable(unit, number, error)


def _lines(stream: pa.NativeFile) -> Iterator[bytes | None]:
    """The lines of a stream; None for one over `LINE_LIMIT`, which is not held in memory."""
    rest, overlong = b"", False
    while block := stream.read(2**20):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield None if overlong else line
            overlong = False
        if len(rest) > LINE_LIMIT:
            rest, overlong = b"", True
    if rest or overlong:
        yield None if overlong else rest


def _read_json(unit: Unit, storage: Storage, columns: Columns, images: bool) -> Iterator[Record]:
    """The objects of a file that is one JSON list, as LLaVA's data sets are. It is never in memory as a whole."""
    number = 0
    try:
        with _open(unit, storage, streamed=True) as stream:
            for values in _elements(stream):
                place = f"{unit.uri}#{number}"
                if isinstance(values, dict):
                    yield Record(place, unit.root, values)
                else:
                    problem = f"a JSON {type(values).__name__}, not an object"
                    yield Record(place, unit.root, {}, Reject("bad_row", problem))
                number += 1
    except (*READ_ERRORS, ValueError, RecursionError) as error:  # the last two: no JSON from here on
        yield _rest_unreadable(unit, number, error)


def _elements(stream: pa.NativeFile) -> Iterator[Any]:
    """The elements of the JSON list in a stream. Raises ValueError where it is none, or one is over `LINE_LIMIT`."""
    decode, parse = codecs.getincrementaldecoder("utf-8-sig")().decode, json.JSONDecoder().raw_decode
    text, at, ended, before = "", 0, False, _OPENING
    while True:
        found = before.match(text, at)
        start = found.end() if found else at
        if (found or before is _COMMA) and _CLOSING.match(text, start):
            return
        if not found and (ended or text[at:].strip()):
            raise ValueError(f"{text[at : at + 20]!r}, where a list must begin, go on or end")
        try:
            element, end = parse(text, start)
        except ValueError:
            if ended or len(text) - at > LINE_LIMIT:
                raise
            end = len(text)
        if found and (ended or end < len(text)):  # else it may go on
            yield element
            at, before = end, _COMMA
        else:
            block = stream.read(2**20)
            ended = not block
            text, at = text[at:] + decode(block, final=ended), 0


def _json_record(place: str, root: str, line: bytes | None) -> Record:
    if line is None:
        return Record(place, root, {}, Reject("bad_row", f"the line has more than {LINE_LIMIT} bytes"))
    values = _json_object(line)
    return Record(place, root, {}, values) if isinstance(values, Reject) else Record(place, root, values)


def _json_object(text: bytes) -> dict[str, Any] | Reject:
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, absurdly long numbers, deep nesting
        return Reject("bad_row", f"no JSON: {type(error).__name__}: {error}")
    if not isinstance(values, dict):
        return Reject("bad_row", f"a JSON {type(values).__name__}, not an object")
    return values


def _read_tar(unit: Unit, storage: Storage, columns: Columns, images: bool) -> Iterator[Record]:
    """The samples of a WebDataset tar: neighbouring members whose names agree up to the first dot of the file name.

    Their id is that name, unless their .json has the id column; a .txt is the question, unless the .json has it.
    """
    number = 0
    try:
        with (
            _open(unit, storage, streamed=True) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar,
        ):
            key, sample = None, _TarSample(unit, "", columns)
            for member in tar:
                if not member.isfile() or posixpath.basename(member.name).startswith("."):
                    continue
                stem = _tar_key(member.name)
                if stem != key:
                    if key is not None:
                        yield sample.record()
                        number += 1
                    key, sample = stem, _TarSample(unit, stem, columns)
                sample.add(tar, member, images)
            if key is not None:
                yield sample.record()
                number += 1
    except READ_ERRORS as error:
        yield _rest_unreadable(unit, number, error)


class _Header(tarfile.TarInfo):
    """A member's header that, where it is damaged or cut off, is an error: Python takes it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a member's header is damaged: {error}") from error


def _tar_key(name: str) -> str:
    folder, base = posixpath.split(name.removeprefix("./"))
    return posixpath.join(folder, base.partition(".")[0])


class _TarSample:
    """The members of a tar that belong together, as they come."""

    def __init__(self, unit: Unit, key: str, columns: Columns) -> None:
        self._unit, self._key, self._names = unit, clean(key), columns
        self._columns: dict[str, Any] = {columns.id: self._key}
        self._metadata: dict[str, Any] = {}
        self._reject: Reject | None = None

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, images: bool) -> None:
        extension = posixpath.splitext(member.name)[1].lower()
        if extension in IMAGE_EXTENSIONS:
            path = f"{self._unit.uri}#{clean(member.name)}"
            self._columns[self._names.image] = {"path": path, "bytes": _content(tar, member) if images else None}
        elif extension in (".json", ".txt") and member.size > LINE_LIMIT:
            self._reject = Reject("bad_row", f"{member.name} has {member.size} bytes; the limit is {LINE_LIMIT}")
        elif extension == ".json":
            values = _json_object(_content(tar, member))
            if isinstance(values, Reject):
                self._reject = values
            else:
                self._metadata = values
        elif extension == ".txt":
            text = _content(tar, member).decode("utf-8", "replace").strip()
            self._columns |= {self._names.question: text, "txt": text}

    def record(self) -> Record:
        metadata = {name: value for name, value in self._metadata.items() if name != self._names.image}
        return Record(f"{self._unit.uri}#{self._key}", self._unit.root, self._columns | metadata, self._reject)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data


def _read_images(unit: Unit, storage: Storage, columns: Columns, images: bool) -> Iterator[Record]:
    """One record per image file; its id is its path in the folder. The bytes are the fetch stage's business."""
    for member in unit.members:
        yield Record(f"{unit.uri}/{member}", unit.root, {columns.id: member, columns.image: member})


def _read_nothing(unit: Unit, storage: Storage, columns: Columns, images: bool) -> Iterator[Record]:
    """What stands for a file that can't be opened at all: one record that says so."""
    yield Record(unit.uri, unit.root, {}, Reject("source_unreadable", unit.problem))


def _rest_unreadable(unit: Unit, number: int, error: BaseException) -> Record:
    message = f"nothing after record {number} can be read: {type(error).__name__}: {error}"
    return Record(f"{unit.uri}#{number}", unit.root, {}, Reject("source_unreadable", message))


Reader = Callable[[Unit, Storage, Columns, bool], Iterator[Record]]
READERS: dict[str, Reader] = {  # of all but Parquet
    "jsonl": _read_jsonl,
    "json": _read_json,
    "tar": _read_tar,
    "images": _read_images,
    "unreadable": _read_nothing,
}
