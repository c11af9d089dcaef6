"""What stands under `--input`: which files, in which format, cut into units that tasks can read.

The format is told by what is there: file names first, the first bytes where the name says nothing. A folder that holds
tables (Parquet, JSONL or tars) is read by them, and images beside them are what the tables refer to; a folder that
holds only images is a folder of images. Columns that are missing are found here, before anything runs, and the
message names those that exist.
"""

from __future__ import annotations

import codecs
import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.sources.formats import IMAGE_EXTENSIONS, READ_ERRORS, Unit, read, stamp_of
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.tables import SchemaError, check_types, open_parquet
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme

EXTENSIONS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst"),
    "tar": (".tar", ".tar.gz", ".tgz"),
    "images": IMAGE_EXTENSIONS,
}
TABLES = ("parquet", "jsonl", "tar")
IMAGES_PER_UNIT = 256
ROWS_PER_UNIT = 4096  # Parquet: row groups are gathered up to so many
TALK = "conversations"  # what LLaVA's data sets call the column
DEFAULT_PROMPT = str(JobOptions.__dataclass_fields__["prompt"].default)
PEEKED = 100  # records read to learn which columns a JSONL file or a tar has


@dataclass(frozen=True)
class Source:
    """The units of one `--input`, and how many files were passed over because they are of no known kind."""

    units: tuple[Unit, ...]
    ignored: int = 0


def open_source(uri: str, storage: Storage, columns: Columns) -> Source:
    """Find the files under `uri`, check their columns, and cut them into units.

    Raises UsageError where nothing is there, where it is of no known format, or where a column is missing.
    """
    uri = _plain(uri)
    filesystem, path = storage.filesystem(uri)
    info = _info(filesystem, path, uri)
    if info.type == pafs.FileType.File:
        kind = _kind(path) or _sniff(filesystem, path, uri)
        if kind is None:
            raise UsageError(f"--input {uri}: neither Parquet, nor JSON lines or a JSON list, nor a tar, nor an image")
        if kind == "images":
            folder, name = posixpath.split(uri)
            return Source(tuple(_image_units(folder, [name], columns)))
        return Source(tuple(_table_units(kind, [uri], storage, columns)))
    return _open_folder(uri, filesystem, path, storage, columns)


def _plain(uri: str) -> str:
    """`uri` without a trailing slash; a local one as an absolute path, so that workers elsewhere mean the same."""
    if uri.startswith("file://"):
        uri = unquote(urlsplit(uri).path)
    if not has_scheme(uri):
        return pafs.LocalFileSystem().normalize_path(posixpath.abspath(uri))
    return uri.rstrip("/")


def _info(filesystem: pafs.FileSystem, path: str, uri: str) -> pafs.FileInfo:
    try:
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise store_error(f"--input {uri} can't be read", error) from error
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"--input {uri}: there is nothing")
    return info


def _open_folder(uri: str, filesystem: pafs.FileSystem, path: str, storage: Storage, columns: Columns) -> Source:
    files = sorted(name for name in _list(filesystem, path, uri) if not _hidden(name))
    kinds = {name: _kind(name) for name in files}
    found = [kind for kind in TABLES if kind in kinds.values()]
    if len(found) > 1:
        raise UsageError(f"--input {uri} holds {' and '.join(found)} files; name the files, or a folder of one format")
    kind = found[0] if found else "images"
    names = [name for name in files if kinds[name] == kind]
    if not names:
        held = f"{len(files)} files of other kinds" if files else "no files"
        raise UsageError(f"--input {uri} holds {held}; looked for Parquet, JSONL, tars and images")
    units = _image_units(uri, names, columns) if kind == "images" else _table_units(
        kind, [f"{uri}/{name}" for name in names], storage, columns
    )  # fmt: skip
    beside = sum(1 for name in files if kinds[name] is None)
    return Source(tuple(units), ignored=beside)


def _list(filesystem: pafs.FileSystem, path: str, uri: str) -> list[str]:
    """The paths of the files under `path`, relative to it."""
    try:
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise store_error(f"--input {uri} can't be listed", error) from error
    prefix = path.rstrip("/") + "/"
    return [info.path.removeprefix(prefix) for info in infos if info.type == pafs.FileType.File]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, extensions in EXTENSIONS.items() if lower.endswith(extensions)), None)


def _sniff(filesystem: pafs.FileSystem, path: str, uri: str) -> str | None:
    """The format of a file whose name says nothing."""
    try:
        with filesystem.open_input_file(path) as file:
            start = file.read(512)
    except OSError as error:
        raise store_error(f"--input {uri} can't be read", error) from error
    if start.startswith(b"PAR1"):
        return "parquet"
    if start[257:262] == b"ustar":
        return "tar"
    return {b"{": "jsonl", b"[": "json"}.get(start.removeprefix(codecs.BOM_UTF8).lstrip()[:1])


def _image_units(folder: str, names: Sequence[str], columns: Columns) -> Iterable[Unit]:
    _check_names([columns.id, columns.image], columns, folder)
    for start in range(0, len(names), IMAGES_PER_UNIT):
        yield Unit("images", folder, members=tuple(names[start : start + IMAGES_PER_UNIT]))


def _table_units(kind: str, uris: Sequence[str], storage: Storage, columns: Columns) -> list[Unit]:
    with ThreadPoolExecutor(16) as threads:
        if kind == "parquet":
            alone = len(uris) == 1
            found = list(threads.map(lambda uri: _parquet_units(uri, storage, columns, alone), uris))
            return [unit for units in found for unit in units]
        units = list(threads.map(lambda uri: _unit(kind, uri, storage), uris))
    _check_records(units[0], storage, columns)
    return units


def _unit(kind: str, uri: str, storage: Storage) -> Unit:
    """The unit of a file that is read as a whole."""
    try:
        return Unit(kind, uri, stamp=stamp_of(*storage.filesystem(uri)))
    except OSError as error:
        return Unit("unreadable", uri, problem=str(error))


def _parquet_units(uri: str, storage: Storage, columns: Columns, alone: bool) -> list[Unit]:
    """A Parquet file's units. `alone`: whether no other file can have the values that a column of nulls lacks."""
    filesystem, path = storage.filesystem(uri)
    try:
        stamp = stamp_of(filesystem, path)
        with filesystem.open_input_file(path) as source:
            file, schema = open_parquet(source)
            metadata = file.metadata
    except SchemaError as error:
        raise UsageError(f"{uri}: {error}") from error
    except READ_ERRORS as error:
        return [Unit("unreadable", uri, problem=f"no Parquet file can be read: {type(error).__name__}: {error}")]
    _check_names(schema.names, columns, uri)
    check_types(schema, columns, uri, alone and metadata.num_rows > 0)
    return list(_row_groups(Unit("parquet", uri, stamp=stamp), metadata))


def _row_groups(whole: Unit, metadata: pq.FileMetaData) -> Iterable[Unit]:
    """Row groups gathered into units of at least `ROWS_PER_UNIT` rows."""
    groups: list[int] = []
    first = rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= ROWS_PER_UNIT or group == metadata.num_row_groups - 1:
            yield replace(whole, groups=tuple(groups), first=first)
            groups, first, rows = [], first + rows, 0


def _check_records(unit: Unit, storage: Storage, columns: Columns) -> None:
    """Look for the columns in a file's first records. Later ones may differ: they are rejected one by one."""
    peeked = islice(read(unit, storage, columns, images=False), PEEKED)
    records = [record for record in peeked if record.columns and not (record.reject and unit.format == "tar")]
    names = {name for record in records for name in record.columns}
    if not records:
        return
    if unit.format == "tar":
        names |= {columns.id, columns.image}  # which its members' names and images are, where there are any
    _check_names(sorted(names), columns, unit.uri)


def _check_names(names: Sequence[str], columns: Columns, uri: str) -> None:
    """Raise a UsageError if a column is missing. A conversation may be about no image."""
    talk, needed = columns.conversations, [("--id-column", columns.id)]
    needed += [("--image-column", columns.image)] if talk is None else [("--conversations-column", talk)]
    for option, name in needed:
        if name not in names:
            raise UsageError(f"{uri} has no column {name!r}; {option} must be one of {', '.join(names)}")
    missing = [name for name in columns.needed if name not in names]
    if missing:
        hint = "a fixed text such as --prompt 'Describe the image.' needs none"
        if columns.question in missing and TALK in names:
            hint = f"for conversations in LLaVA's format give --conversations-column {TALK}"
        elif columns.prompt == DEFAULT_PROMPT and columns.question in names:
            raise UsageError(
                f"--question-column says what stands in {columns.question!r}, and --prompt what is asked: give "
                f"--prompt '{{{columns.question}}}', or a text around it"
            )
        raise UsageError(
            f"--prompt {columns.prompt!r} names {', '.join(missing)}, which {uri} doesn't have; it has "
            f"{', '.join(sorted(names))} ({hint})"
        )
