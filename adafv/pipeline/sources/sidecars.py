"""Sidecar files of a folder's images: `a/1.txt` and `a/1.json` belong to `a/1.jpg`, as img2dataset writes them.

They are read if a prompt or another option names a column that they may hold. An image is one row whatever they say, so
planning doesn't need them, except with `--where`: then both passes must see the same, and a sidecar that is unreadable,
or newer than the file list, ends its unit.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.fs as pafs

from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.json_text import json_object
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.units import READ_ERRORS
from adafv.pipeline.store.storage import Storage

TEXT, OBJECT = ".txt", ".json"
TRIED = 8  # .json files to look for columns in


def sidecars_of(images: Sequence[str], files: Iterable[str], columns: Columns) -> list[tuple[str, ...]]:
    """The sidecar files of each image that are needed: .txt before .json."""
    wanted = _wanted(columns)
    found: dict[str, list[str]] = defaultdict(list)
    for name in files:
        stem, extension = posixpath.splitext(name)
        if extension.lower() in wanted:
            found[stem].append(name)
    return [tuple(sorted(found.get(posixpath.splitext(name)[0], ()), key=_kind, reverse=True)) for name in images]


def sidecar_columns(folder: str, beside: Iterable[Sequence[str]], storage: Storage, columns: Columns) -> set[str]:
    """The columns of .txt files and of the first .json files."""
    names = [name for group in beside for name in group]
    texts = {columns.question, "txt"} if any(_kind(name) == TEXT for name in names) else set[str]()
    objects = [name for name in names if _kind(name) == OBJECT][:TRIED]
    values = (sidecar_values(folder, [name], storage, columns)[0] for name in objects)
    return texts.union(*values)


def sidecar_values(
    folder: str, names: Sequence[str], storage: Storage, columns: Columns, found_at: int | None = None
) -> tuple[dict[str, Any], Reject | None]:
    """The columns that an image's sidecars give; or why it has none.

    Args:
        found_at: in ns since the epoch; a file written later counts as unreadable.
    """
    values: dict[str, Any] = {}
    for name in names:
        if clean(name) != name:  # pyarrow would raise anything
            return {}, Reject("bad_row", f"{clean(name)}: the file's name isn't UTF-8; rename it")
        try:
            data = _content(f"{folder.rstrip('/')}/{name}", storage, found_at)
        except READ_ERRORS as error:
            return {}, Reject("source_unreadable", f"{name} can't be read: {type(error).__name__}: {error}")
        if len(data) > units.LINE_LIMIT:
            return {}, Reject("bad_row", f"{name} has more than {units.LINE_LIMIT} bytes")
        if _kind(name) == TEXT:
            text = data.decode("utf-8", "replace").strip()
            values |= {columns.question: text, "txt": text}
            continue
        found = json_object(data)
        if isinstance(found, Reject):
            return {}, Reject(found.error, f"{name}: {found.message}")
        values |= {key: value for key, value in found.items() if key not in _not_taken(columns)}
    if columns.asks and isinstance(values.get(columns.question), list):
        return {}, Reject("bad_row", "a file beside an image asks one question; several are for a table's column")
    return values, None


def _wanted(columns: Columns) -> set[str]:
    """The extensions of sidecars that may hold a needed column."""
    kind = {columns.stratum, columns.choices, *columns.filtered, *columns.carried} - {None}
    needed = ({*columns.prompt_columns} | kind) - _not_taken(columns)
    texts = {TEXT} if needed & {columns.question, "txt"} else set[str]()
    return texts | ({OBJECT} if needed - {"txt"} else set())


def _not_taken(columns: Columns) -> set[str | None]:
    """Columns that the image itself sets, and the one that would make several rows of it."""
    return {columns.id, columns.image, columns.conversations}


def _kind(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _content(uri: str, storage: Storage, found_at: int | None) -> bytes:
    filesystem, path = storage.filesystem(uri)
    if found_at is not None and _changed_at(filesystem, path) > found_at:
        raise OSError("it was replaced after the run began")
    with filesystem.open_input_file(path) as source:
        return source.read(units.LINE_LIMIT + 1)


def _changed_at(filesystem: pafs.FileSystem, path: str) -> int:
    """When a file last changed, in ns since the epoch. On a disk its modification time doesn't tell: copies keep it,
    and unpacked files may bring one from the future along."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return os.stat(path).st_ctime_ns
    return filesystem.get_file_info(path).mtime_ns or 0
