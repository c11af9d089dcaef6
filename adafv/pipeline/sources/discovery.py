"""Finds the files under `--input` and their format (`kinds`), and cuts them into units for tasks.

In a folder with tables (Parquet, JSONL or tars) the tables are read, and images beside them are what the tables refer
to. A folder with only images is a folder of images, with sidecar files (`sidecars`). Everything else is counted with
the reason. Missing columns are found here, before anything runs (`preview`).
"""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

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
from adafv.pipeline.sources.preview import check_names, check_records
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.sidecars import sidecar_columns, sidecars_of
from adafv.pipeline.sources.tables import SchemaError, check_types, open_parquet
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, Unit, stamp_of
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of, has_scheme, local_path

IMAGES_PER_UNIT = 256
ROWS_PER_UNIT = 4096  # Parquet: row groups are gathered up to this


@dataclass(frozen=True)
class Source:
    """The units of one `--input`, and the files passed over."""

    units: tuple[Unit, ...]
    passed: tuple[Passed, ...] = ()


def open_sources(uris: Sequence[str], storage: Storage, columns: Columns, output: str | None = None) -> Source:
    """Several inputs as one, each found as by `open_source`."""
    sources = [open_source(uri, storage, columns, output) for uri in uris]
    passed = PassedOver(one for source in sources for one in source.passed)
    return Source(tuple(unit for source in sources for unit in source.units), tuple(passed))


def open_source(uri: str, storage: Storage, columns: Columns, output: str | None = None) -> Source:
    """Find the files that `uri` names, check their columns, and cut them into units.

    Args:
        output: where the job writes; its own files are no input.

    Raises UsageError if there is nothing, the format is unknown, or a column is missing.
    """
    search = _Search(storage, columns, None if output is None else plain_uri(output), PassedOver())
    units = search.matching(search.listed(uri)) if uri.startswith("@") else search.units_of(plain_uri(uri))
    return Source(tuple(units), tuple(search.passed))


def check_roots(image_root: str | None, allow_local: str | None, storage: Storage) -> None:
    """Raise UsageError if a folder to look for images in isn't there."""
    if allow_local is not None and (has_scheme(allow_local) or not os.path.isdir(allow_local)):
        raise UsageError(f"--allow-local {allow_local}: there is no such local folder")
    if image_root is None:
        return
    kind = _type(*storage.filesystem(plain_uri(image_root)), f"--image-root {image_root}")
    if kind != pafs.FileType.Directory:
        problem = "there is nothing" if kind == pafs.FileType.NotFound else "it is no folder"
        raise UsageError(f"--image-root {image_root}: {problem}; it must be the folder of the images")


def plain_uri(uri: str) -> str:
    """`uri` without a trailing slash, and absolute if local, so that it means the same on workers."""
    uri = local_path(uri)
    if not has_scheme(uri):
        return pafs.LocalFileSystem().normalize_path(posixpath.abspath(uri))
    return uri.rstrip("/")


def _type(filesystem: pafs.FileSystem, path: str, named: str) -> pafs.FileType:
    try:
        return filesystem.get_file_info(path).type
    except OSError as error:
        raise store_error(f"{named} can't be read", error) from error


@dataclass(frozen=True)
class _Search:
    """Finds the units of one input. `output`: where the job writes; `passed`: counts what makes no row."""

    storage: Storage
    columns: Columns
    output: str | None
    passed: PassedOver

    def units_of(self, uri: str) -> Iterable[Unit]:
        """The units of a file, a folder or a pattern."""
        filesystem, path = self.storage.filesystem(uri)
        kind = _type(filesystem, path, f"--input {uri}")
        pattern = Pattern.of(uri) if kind == pafs.FileType.NotFound else None
        if pattern is not None:
            return self.matching(pattern)
        if kind == pafs.FileType.NotFound:
            raise UsageError(f"--input {uri}: there is nothing")
        if kind == pafs.FileType.File:
            return self._in_file(uri, filesystem, path)
        return self._in_files(uri, list_files(filesystem, path, uri, self.passed))

    def _in_file(self, uri: str, filesystem: pafs.FileSystem, path: str) -> Iterable[Unit]:
        kind = kind_of(path) or sniffed(filesystem, path, uri)
        if kind is None:
            raise UsageError(f"--input {uri}: neither Parquet, CSV, JSON lines or a JSON list, nor a tar, nor an image")
        if kind == "images":
            folder, name = posixpath.split(uri)
            return self._images(folder, [name])
        return self._tables(kind, folder_of(uri), [uri])

    def listed(self, uri: str) -> Pattern:
        """The paths or URIs in a list file, one per line."""
        place = plain_uri(uri[1:])
        filesystem, path = self.storage.filesystem(place)
        try:
            with filesystem.open_input_file(path) as source:
                lines = source.read().decode("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise store_error(f"--input {uri} can't be read", error) from error
        named = [line.strip() for line in lines if line.strip()]
        pattern = Pattern.listed(uri, place, named)
        if again := len(named) - len(pattern.names):
            self.passed.add("lines", "a file that a list names again is read once", uri, again)
        return pattern

    def matching(self, pattern: Pattern) -> Iterable[Unit]:
        """The units of the files that a pattern names."""
        filesystem, path = self.storage.filesystem(pattern.folder)
        there = _type(filesystem, path, f"--input {pattern.uri}") == pafs.FileType.Directory
        files = list_files(filesystem, path, pattern.folder, self.passed, pattern) if there else []
        missing = pattern.missing(files)
        if missing and (files or not pattern.globs):
            raise UsageError(
                f"--input {pattern.uri} names {len(pattern.names):,} files, of which {len(missing):,} aren't there: "
                f"the first is {pattern.folder.rstrip('/')}/{missing[0]}"
            )
        if not files:
            raise UsageError(f"--input {pattern.uri}: there is nothing that the pattern matches")
        return self._in_files(pattern.folder, files, named=True)

    def _in_files(self, uri: str, files: Sequence[str], named: bool = False) -> Iterable[Unit]:
        """The units of files under the folder `uri`. `named`: whether a pattern names them."""
        found, passed = len(files) + self.passed.total("files"), self.passed
        files = without_hidden(without_outputs(files, uri, self.output, passed), uri, IMAGE_EXTENSIONS, passed)
        kinds = kinds_of(uri, files, self.storage, named)
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
        sidecars = sidecars_of(names, kinds, self.columns) if kind == "images" else []
        taken = {name for group in sidecars for name in group}
        for name in kinds:
            if kinds[name] != kind and name not in taken:
                passed.add("files", why_not(name, kinds[name]), f"{uri}/{name}")
        if kind == "images":
            return self._images(uri, names, sidecars)
        return self._tables(kind, uri, [f"{uri.rstrip('/')}/{name}" for name in names])

    def _images(self, folder: str, names: Sequence[str], sidecars: Sequence[tuple[str, ...]] = ()) -> Iterator[Unit]:
        columns, known = self.columns, sidecar_columns(folder, sidecars, self.storage, self.columns)
        check_names([columns.id, columns.image, *sorted(known)], columns, folder)
        if columns.image_root is not None and lies_in(plain_uri(columns.image_root), folder) is None:
            raise UsageError(
                f"--image-root {columns.image_root} is not above --input {folder}, whose images are its own files; "
                "leave --image-root out"
            )
        now = time.time_ns()
        for start in range(0, len(names), IMAGES_PER_UNIT):
            end = start + IMAGES_PER_UNIT
            there = tuple(sidecars[start:end]) * any(sidecars)
            yield Unit("images", folder, members=tuple(names[start:end]), sidecars=there, found_at=now)

    def _tables(self, kind: str, root: str, uris: Sequence[str]) -> Iterable[Unit]:
        misnamed, uris = [uri for uri in uris if clean(uri) != uri], [uri for uri in uris if clean(uri) == uri]
        problem = "the file's name isn't UTF-8; rename it"
        unreadable = [Unit("unreadable", clean(uri), problem=problem) for uri in misnamed]
        alone = len(uris) == 1
        cut = partial(self._parquet, alone) if kind == "parquet" else partial(self._whole, kind)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(cut, uris))
        for uri, units in zip(uris, found, strict=True):
            if not units:
                self.passed.add("files", "no rows were found", uri)
        units = [_named(unit, root) for units in found for unit in units]
        if kind != "parquet":
            check_records(units, self.storage, self.columns)
        return [*units, *unreadable]

    def _whole(self, kind: str, uri: str) -> list[Unit]:
        """The unit of a file that is read as a whole."""
        try:
            return [Unit(kind, uri, stamp=stamp_of(*self.storage.filesystem(uri)))]
        except OSError as error:
            return [Unit("unreadable", uri, problem=str(error))]

    def _parquet(self, alone: bool, uri: str) -> list[Unit]:
        """A Parquet file's units. `alone`: whether no other file can supply values for a column of nulls."""
        filesystem, path = self.storage.filesystem(uri)
        try:
            stamp = stamp_of(filesystem, path)
            with filesystem.open_input_file(path) as source:
                file, schema = open_parquet(source)
                metadata = file.metadata
        except SchemaError as error:
            raise UsageError(f"{uri}: {error}") from error
        except READ_ERRORS as error:
            return [Unit("unreadable", uri, problem=f"no Parquet file can be read: {type(error).__name__}: {error}")]
        check_names(schema.names, self.columns, uri)
        check_types(schema, self.columns, uri, alone and metadata.num_rows > 0)
        return list(_row_groups(Unit("parquet", uri, stamp=stamp), metadata))


def _held(found: int, passed: PassedOver) -> str:
    others = found - passed.total("files")
    if not found:
        return "no files"
    return "; ".join([f"{others:,} files of other kinds"] * (others > 0) + [f"{one}" for one in passed])


def _named(unit: Unit, root: str) -> Unit:
    data_set = re.match(r"hf://[^/]+/[^/]+/[^/]+", unit.uri)
    return replace(unit, name=unit.uri.removeprefix((data_set[0] if data_set else root.rstrip("/")) + "/"))


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
