"""The units that an input is cut into, and the opening of their files."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs

from adafv.pipeline.sources.streams import Stream, open_stream
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
LINE_LIMIT = 16 * 2**20  # bytes of one JSONL line, or of one metadata member of a tar
READ_ERRORS = (OSError, EOFError, pa.ArrowException, tarfile.TarError, zlib.error, lzma.LZMAError)
Stamp = tuple[int, int]  # size in bytes, and when it was modified, in ns


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads.

    Attributes:
        format: a key of `formats.READERS`, or parquet.
        uri: the file, or the folder of images; `name`: a table's file within the input, or the Hub's data set.
        groups: Parquet: the row groups, and `first`: the number of their first row in the file.
        members: images: paths relative to the folder; `beside`: of each, those of its texts (`neighbours`), if any has
            some.
        stamp: the file's `stamp_of` when it was found; it must be the same when it is read.
        found_at: images: when they were found, in ns of the epoch.
        problem: unreadable: why.
    """

    format: str
    uri: str
    name: str = ""
    groups: tuple[int, ...] = ()
    first: int = 0
    members: tuple[str, ...] = ()
    beside: tuple[tuple[str, ...], ...] = ()
    stamp: Stamp | None = None
    found_at: int = 0
    problem: str = ""

    @property
    def root(self) -> str:
        return self.uri if self.format == "images" else folder_of(self.uri)


def stamp_of(filesystem: pyarrow.fs.FileSystem, path: str) -> Stamp:
    """What tells one version of a file from another."""
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


def open_file(unit: Unit, storage: Storage) -> pa.NativeFile:
    """The unit's file, to be read anywhere."""
    filesystem, path = storage.filesystem(unit.uri)
    file = filesystem.open_input_file(path)
    _check_stamp(unit, filesystem, path, file)
    return file


def open_streamed(unit: Unit, storage: Storage) -> Stream:
    """The unit's file, to be read from end to end, decompressed."""
    filesystem, path = storage.filesystem(unit.uri)
    stream = open_stream(filesystem, path)
    _check_stamp(unit, filesystem, path, stream)
    return stream


def _check_stamp(unit: Unit, filesystem: pyarrow.fs.FileSystem, path: str, file: pa.NativeFile | Stream) -> None:
    if unit.stamp not in (None, stamp_of(filesystem, path)):
        file.close()
        raise OSError("it was replaced after the run began")
