"""The units that an input is cut into, and how their files are opened."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.streams import Stream, open_stream
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
LINE_LIMIT = 16 * 2**20  # bytes of one JSONL line, or of one metadata member of a tar
READ_ERRORS = (OSError, EOFError, pa.ArrowException, tarfile.TarError, zlib.error, lzma.LZMAError)
Stamp = tuple[int, int]  # size in bytes, modification time in ns


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads.

    Attributes:
        format: a key of `formats.FORMATS`.
        uri: the file, or the folder of images; `name`: a table's path within the input or the Hub data set.
        groups: Parquet: row groups; `first`: the number of their first row in the file.
        members: images: paths relative to the folder; `sidecars`: the sidecar files of each, or empty.
        stamp: the file's `stamp_of` when it was found; it must be the same when it is read.
        found_at: images: when they were found, in ns since the epoch.
        problem: unreadable: why.
    """

    format: str
    uri: str
    name: str = ""
    groups: tuple[int, ...] = ()
    first: int = 0
    members: tuple[str, ...] = ()
    sidecars: tuple[tuple[str, ...], ...] = ()
    stamp: Stamp | None = None
    found_at: int = 0
    problem: str = ""

    @property
    def root(self) -> str:
        return self.uri if self.format == "images" else folder_of(self.uri)


@dataclass(frozen=True)
class UnitReading:
    """One pass over a unit.

    Attributes:
        images: whether images are wanted; otherwise perhaps only ids and texts are read.
        idle: which of the first records nobody needs; they may come without columns.
        passed: counts what makes no row.
    """

    unit: Unit
    storage: Storage
    columns: Columns
    images: bool = True
    idle: Sequence[bool] = ()
    passed: PassedOver = field(default_factory=PassedOver)

    def record(self, name: object, values: dict[str, Any] | Reject, reject: Reject | None = None) -> Record:
        """A record of the unit's file, with its number or name there: its values, or why it has none."""
        if isinstance(values, Reject):
            reject, values = values, {}
        return Record(f"{self.unit.uri}#{name}", self.unit.root, values, reject)

    def rest_unreadable(self, number: int, error: BaseException) -> Record:
        """The record that stands for the file's records from `number` on."""
        message = f"nothing after record {number} can be read: {type(error).__name__}: {error}"
        return self.record(number, Reject("source_unreadable", message))

    def pass_over(self, what: str, why: str, name: object) -> None:
        self.passed.add(what, why, f"{self.unit.uri}#{name}")


def stamp_of(filesystem: pyarrow.fs.FileSystem, path: str) -> Stamp:
    """Tells versions of a file apart."""
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


def open_file(unit: Unit, storage: Storage) -> pa.NativeFile:
    """The unit's file, for random access."""
    filesystem, path = storage.filesystem(unit.uri)
    file = filesystem.open_input_file(path)
    _check_stamp(unit, filesystem, path, file)
    return file


def open_streamed(unit: Unit, storage: Storage) -> Stream:
    """The unit's file, read from start to end, decompressed."""
    filesystem, path = storage.filesystem(unit.uri)
    stream = open_stream(filesystem, path)
    _check_stamp(unit, filesystem, path, stream)
    return stream


def _check_stamp(unit: Unit, filesystem: pyarrow.fs.FileSystem, path: str, file: pa.NativeFile | Stream) -> None:
    if unit.stamp not in (None, stamp_of(filesystem, path)):
        file.close()
        raise OSError("it was replaced after the run began")
