"""What stands under `--input`: which files, in which format (`kinds`), cut into units that tasks can read.

A folder that holds tables (Parquet, JSONL or tars) is read by them, and images beside them are what the tables refer
to; a folder that holds only images is a folder of images, with texts beside them (`neighbours`). What else lies there
is counted, with the reason why it is no input. Columns that are missing are found here, before anything runs, and the
message names those that exist (`preview`).
"""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.passed import Passed, PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.sources.kinds import (
    NAMED_TABLES,
    TABLES,
    kind_of,
    kinds_of,
    records_of_img2dataset,
    sniffed,
    why_not,
)
from adafv.pipeline.sources.listing import Pattern, lies_in, list_files, without_hidden, without_outputs
from adafv.pipeline.sources.neighbours import columns_beside, neighbours_of
from adafv.pipeline.sources.preview import check_names, check_records
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.tables import SchemaError, check_types, open_parquet
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, Unit, stamp_of
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of, has_scheme, local_path

IMAGES_PER_UNIT = 256
ROWS_PER_UNIT = 4096  # Parquet: row groups are gathered up to so many


@dataclass(frozen=True)
class Source:
    """The units of one `--input`, and the files that were passed over; what lies in files is counted as it is read."""

    units: tuple[Unit, ...]
    passed: tuple[Passed, ...] = ()


def open_sources(uris: Sequence[str], storage: Storage, columns: Columns, output: str | None = None) -> Source:
    """Several as one, as `open_source` finds each."""
    sources = [open_source(uri, storage, columns, output) for uri in uris]
    passed = PassedOver(one for source in sources for one in source.passed)
    return Source(tuple(unit for source in sources for unit in source.units), tuple(passed))


def open_source(uri: str, storage: Storage, columns: Columns, output: str | None = None) -> Source:
    """Find the files under `uri` or that it names as a pattern, check their columns, and cut them into units.

    Args:
        output: where the job writes to: files of its own are no input.

    Raises UsageError where nothing is there, where it is of no known format, or where a column is missing.
    """
    if uri.startswith("@"):
        passed = PassedOver()
        units = _open_pattern(_listed(uri, storage), storage, columns, output, passed)
        return Source(tuple(units), tuple(passed))
    uri = plain_uri(uri)
    filesystem, path = storage.filesystem(uri)
    kind = _type(filesystem, path, f"--input {uri}")
    pattern = Pattern.of(uri) if kind == pafs.FileType.NotFound else None
    passed = PassedOver()
    if pattern is not None:
        units = _open_pattern(pattern, storage, columns, output, passed)
    elif kind == pafs.FileType.NotFound:
        raise UsageError(f"--input {uri}: there is nothing")
    elif kind == pafs.FileType.File:
        units = _open_file(uri, filesystem, path, storage, columns, passed)
    else:
        files = list_files(filesystem, path, uri, passed)
        units = _open_files(uri, files, storage, columns, output, passed)
    return Source(tuple(units), tuple(passed))


def _listed(uri: str, storage: Storage) -> Pattern:
    """What a file names, a path or URI on each line."""
    place = plain_uri(uri[1:])
    filesystem, path = storage.filesystem(place)
    try:
        with filesystem.open_input_file(path) as source:
            text = source.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise store_error(f"--input {uri} can't be read", error) from error
    return Pattern.listed(uri, place, text)


def check_roots(image_root: str | None, allow_local: str | None, storage: Storage) -> None:
    """Raise a UsageError where a folder isn't there in which images are to be looked for."""
    if allow_local is not None and (has_scheme(allow_local) or not os.path.isdir(allow_local)):
        raise UsageError(f"--allow-local {allow_local}: there is no such local folder")
    if image_root is None:
        return
    kind = _type(*storage.filesystem(plain_uri(image_root)), f"--image-root {image_root}")
    if kind != pafs.FileType.Directory:
        problem = "there is nothing" if kind == pafs.FileType.NotFound else "it is no folder"
        raise UsageError(f"--image-root {image_root}: {problem}; it must be the folder of the images")


def plain_uri(uri: str) -> str:
    """`uri` without a trailing slash; a local one as an absolute path, so that workers elsewhere mean the same."""
    uri = local_path(uri)
    if not has_scheme(uri):
        return pafs.LocalFileSystem().normalize_path(posixpath.abspath(uri))
    return uri.rstrip("/")


def _type(filesystem: pafs.FileSystem, path: str, named: str) -> pafs.FileType:
    try:
        return filesystem.get_file_info(path).type
    except OSError as error:
        raise store_error(f"{named} can't be read", error) from error


def _open_file(
    uri: str, filesystem: pafs.FileSystem, path: str, storage: Storage, columns: Columns, passed: PassedOver
) -> Sequence[Unit]:
    kind = kind_of(path) or sniffed(filesystem, path, uri)
    if kind is None:
        raise UsageError(f"--input {uri}: neither Parquet, CSV, JSON lines or a JSON list, nor a tar, nor an image")
    if kind == "images":
        folder, name = posixpath.split(uri)
        return list(_image_units(folder, [name], columns))
    return _table_units(kind, folder_of(uri), [uri], storage, columns, passed)


def _open_pattern(
    pattern: Pattern, storage: Storage, columns: Columns, output: str | None, passed: PassedOver
) -> Sequence[Unit]:
    filesystem, path = storage.filesystem(pattern.folder)
    there = _type(filesystem, path, f"--input {pattern.uri}") == pafs.FileType.Directory
    files = list_files(filesystem, path, pattern.folder, passed, pattern) if there else []
    missing = pattern.missing(files)
    if missing and (files or not pattern.globs):
        raise UsageError(
            f"--input {pattern.uri} names {len(pattern.names):,} files, of which {len(missing):,} aren't there: "
            f"the first is {pattern.folder.rstrip('/')}/{missing[0]}"
        )
    if not files:
        raise UsageError(f"--input {pattern.uri}: there is nothing that the pattern matches")
    return _open_files(pattern.folder, files, storage, columns, output, passed, named=True)


def _open_files(
    uri: str,
    files: Sequence[str],
    storage: Storage,
    columns: Columns,
    output: str | None,
    passed: PassedOver,
    named: bool = False,
) -> Sequence[Unit]:
    """The units of some files under the folder `uri`. `named`: whether a pattern names them, so that none is there by
    chance."""
    found = len(files)
    files = without_outputs(files, uri, None if output is None else plain_uri(output), passed)
    files = without_hidden(files, uri, IMAGE_EXTENSIONS, passed)
    kinds = kinds_of(uri, files, storage, named)
    for name in records_of_img2dataset(kinds):
        passed.add("files", "img2dataset's own records stand beside its images", f"{uri}/{name}")
        del kinds[name]
    tables = [kind for kind in (*TABLES, *(NAMED_TABLES if named else ())) if kind in kinds.values()]
    if len(tables) > 1:
        example = next(name for name, kind in kinds.items() if kind == tables[0])
        pattern = f"{uri}/**/*{posixpath.splitext(example)[1]}"
        raise UsageError(
            f"--input {uri} holds {' and '.join(tables)} files; name those of one format, such as '{pattern}'"
        )
    kind = tables[0] if tables else "images"
    names = [name for name in kinds if kinds[name] == kind]
    if not names:
        raise UsageError(f"--input {uri} holds {_held(found, passed)}; looked for Parquet, JSONL, tars and images")
    beside = neighbours_of(names, kinds, columns) if kind == "images" else []
    taken = {name for group in beside for name in group}
    for name in kinds:
        if kinds[name] != kind and name not in taken:
            passed.add("files", why_not(name, kinds[name]), f"{uri}/{name}")
    if kind == "images":
        return list(_image_units(uri, names, columns, columns_beside(uri, beside, storage, columns), beside))
    return _table_units(kind, uri, [f"{uri.rstrip('/')}/{name}" for name in names], storage, columns, passed)


def _held(found: int, passed: PassedOver) -> str:
    others = found - passed.total("files")
    if not found:
        return "no files"
    return "; ".join([f"{others:,} files of other kinds"] * (others > 0) + [f"{one}" for one in passed])


def _image_units(
    folder: str,
    names: Sequence[str],
    columns: Columns,
    known: Iterable[str] = (),
    beside: Sequence[tuple[str, ...]] = (),
) -> Iterable[Unit]:
    """Args: known: columns that files `beside` the images have."""
    check_names([columns.id, columns.image, *sorted(known)], columns, folder)
    if columns.image_root is not None and lies_in(plain_uri(columns.image_root), folder) is None:
        raise UsageError(
            f"--image-root {columns.image_root} is not above --input {folder}, whose images are its own files; leave "
            "--image-root out"
        )
    now = time.time_ns()
    for start in range(0, len(names), IMAGES_PER_UNIT):
        end = start + IMAGES_PER_UNIT
        texts = tuple(beside[start:end]) * any(beside)
        yield Unit("images", folder, members=tuple(names[start:end]), beside=texts, found_at=now)


def _table_units(
    kind: str, root: str, uris: Sequence[str], storage: Storage, columns: Columns, passed: PassedOver
) -> Sequence[Unit]:
    misnamed = [uri for uri in uris if clean(uri) != uri]
    unreadable = [Unit("unreadable", clean(uri), problem="the file's name isn't UTF-8; rename it") for uri in misnamed]
    uris = [uri for uri in uris if clean(uri) == uri]
    with ThreadPoolExecutor(16) as threads:
        if kind == "parquet":
            alone = len(uris) == 1
            found = list(threads.map(lambda uri: _parquet_units(uri, storage, columns, alone), uris))
            for uri, units in zip(uris, found, strict=True):
                if not units:
                    passed.add("files", "no row stands in it", uri)
            return [*(_named(unit, root) for units in found for unit in units), *unreadable]
        units = [_named(unit, root) for unit in threads.map(lambda uri: _unit(kind, uri, storage), uris)]
    check_records(units, storage, columns)
    return [*units, *unreadable]


def _named(unit: Unit, root: str) -> Unit:
    data_set = re.match(r"hf://[^/]+/[^/]+/[^/]+", unit.uri)
    return replace(unit, name=unit.uri.removeprefix((data_set[0] if data_set else root.rstrip("/")) + "/"))


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
    check_names(schema.names, columns, uri)
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
