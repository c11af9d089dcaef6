"""What stands under `--input`: which files, in which format, cut into units that tasks can read.

The format is told by what is there: file names first, the first bytes where the name says nothing. A folder that holds
tables (Parquet, JSONL or tars) is read by them, and images beside them are what the tables refer to; a folder that
holds only images is a folder of images. What else lies there is counted, with the reason why it is no input. Columns
that are missing are found here, before anything runs, and the message names those that exist.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.passed import Passed, PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.sources.formats import read
from adafv.pipeline.sources.json_text import NO_JSON
from adafv.pipeline.sources.listing import Pattern, lies_in, list_files, without_hidden, without_outputs
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.streams import open_stream, open_text
from adafv.pipeline.sources.tables import SchemaError, check_types, open_parquet
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, Unit, stamp_of
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme, local_path

PACKED = ("", ".gz", ".bz2", ".xz", ".zst", ".lz4")  # what is told by a file's bytes; its name may say so
EXTENSIONS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": tuple(name + packed for name in (".jsonl", ".ndjson") for packed in PACKED),
    "tar": (*(".tar" + packed for packed in PACKED), ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    "images": IMAGE_EXTENSIONS,
}
TABLES = ("parquet", "jsonl", "tar")
UNDECODED = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
)  # fmt: skip
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
IMAGES_PER_UNIT = 256
ROWS_PER_UNIT = 4096  # Parquet: row groups are gathered up to so many
TALK = "conversations"  # what LLaVA's data sets call the column
DEFAULT_PROMPT = str(JobOptions.__dataclass_fields__["prompt"].default)
PEEKED = 100  # records read to learn which columns a JSONL file or a tar has
TRIED = 8  # files in which such records are looked for


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
    uri = plain_uri(uri)
    filesystem, path = storage.filesystem(uri)
    kind = _type(filesystem, path, uri)
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


def check_roots(image_root: str | None, allow_local: str | None, storage: Storage) -> None:
    """Raise a UsageError where a folder isn't there in which images are to be looked for."""
    if allow_local is not None and (has_scheme(allow_local) or not os.path.isdir(allow_local)):
        raise UsageError(f"--allow-local {allow_local}: there is no such local folder")
    if image_root is None:
        return
    uri = plain_uri(image_root)
    filesystem, path = storage.filesystem(uri)
    try:
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise store_error(f"--image-root {image_root} can't be read", error) from error
    if kind != pafs.FileType.Directory:
        problem = "there is nothing" if kind == pafs.FileType.NotFound else "it is no folder"
        raise UsageError(f"--image-root {image_root}: {problem}; it must be the folder of the images")


def plain_uri(uri: str) -> str:
    """`uri` without a trailing slash; a local one as an absolute path, so that workers elsewhere mean the same."""
    uri = local_path(uri)
    if not has_scheme(uri):
        return pafs.LocalFileSystem().normalize_path(posixpath.abspath(uri))
    return uri.rstrip("/")


def _type(filesystem: pafs.FileSystem, path: str, uri: str) -> pafs.FileType:
    try:
        return filesystem.get_file_info(path).type
    except OSError as error:
        raise store_error(f"--input {uri} can't be read", error) from error


def _open_file(
    uri: str, filesystem: pafs.FileSystem, path: str, storage: Storage, columns: Columns, passed: PassedOver
) -> Sequence[Unit]:
    kind = _kind(path) or _sniff(filesystem, path, uri)
    if kind is None:
        raise UsageError(f"--input {uri}: neither Parquet, nor JSON lines or a JSON list, nor a tar, nor an image")
    if kind == "images":
        folder, name = posixpath.split(uri)
        return list(_image_units(folder, [name], columns))
    return _table_units(kind, [uri], storage, columns, passed)


def _open_pattern(
    pattern: Pattern, storage: Storage, columns: Columns, output: str | None, passed: PassedOver
) -> Sequence[Unit]:
    filesystem, path = storage.filesystem(pattern.folder)
    there = _type(filesystem, path, pattern.uri) == pafs.FileType.Directory
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
    kinds = _kinds(uri, files, storage, named)
    for name in _records_of_img2dataset(kinds):
        passed.add("files", "img2dataset's own records stand beside its images", f"{uri}/{name}")
        del kinds[name]
    tables = [kind for kind in TABLES if kind in kinds.values()]
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
    for name in kinds:
        if kinds[name] != kind:
            passed.add("files", _why_not(name, kinds[name]), f"{uri}/{name}")
    if kind == "images":
        return list(_image_units(uri, names, columns))
    return _table_units(kind, [f"{uri.rstrip('/')}/{name}" for name in names], storage, columns, passed)


def _held(found: int, passed: PassedOver) -> str:
    others = found - passed.total("files")
    if not found:
        return "no files"
    return "; ".join([f"{others:,} files of other kinds"] * (others > 0) + [f"{one}" for one in passed])


def _why_not(name: str, kind: str | None) -> str:
    """Why a file of a folder is no input."""
    lower = name.lower()
    if kind == "images":
        return "images beside tables are those that the tables name, or nobody's"
    if lower.endswith("_stats.json"):
        return "img2dataset's statistics are no rows"
    if lower.endswith((".json", *(f".json{packed}" for packed in PACKED))):
        return "a .json may be anything in a folder: to be read it has to be named"
    if lower.endswith(UNDECODED):
        return "images of this format can't be decoded: convert them to JPEG or PNG"
    return "the format is none that is known"


def _kinds(uri: str, files: Sequence[str], storage: Storage, named: bool) -> dict[str, str | None]:
    """The format of each file by its name; where no name says one, by the first bytes of those without an extension,
    or of all that a pattern names."""
    kinds = {name: _kind(name) for name in files}
    if any(kinds.values()):
        return kinds
    unknown = [name for name in files if clean(name) == name and (named or "." not in posixpath.basename(name))]
    with ThreadPoolExecutor(16) as threads:
        uris = [f"{uri.rstrip('/')}/{name}" for name in unknown]
        sniffed = threads.map(lambda uri: _sniff(*storage.filesystem(uri), uri), uris)
        return kinds | dict(zip(unknown, sniffed, strict=True))


def _records_of_img2dataset(kinds: dict[str, str | None]) -> list[str]:
    """Its Parquet files, which stand beside a tar, or a folder, of the same name."""
    folders = {posixpath.dirname(name) for name, kind in kinds.items() if kind == "images"}
    found = []
    for name, kind in kinds.items():
        stem = posixpath.splitext(name)[0]
        in_folder = stem in folders and f"{stem}_stats.json" in kinds
        if kind == "parquet" and (kinds.get(f"{stem}.tar") == "tar" or in_folder):
            found.append(name)
    return found


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, extensions in EXTENSIONS.items() if lower.endswith(extensions)), None)


def _sniff(filesystem: pafs.FileSystem, path: str, uri: str) -> str | None:
    """The format of a file whose name says nothing."""
    try:
        with open_stream(filesystem, path) as stream:
            start = stream.start
            if start.startswith(b"PAR1"):
                return "parquet"
            if start[257:262] == b"ustar":
                return "tar"
            if start.startswith(IMAGE_MAGIC) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
                return "images"
            return "jsonl" if open_text(stream).start.lstrip()[:1] in (b"{", b"[") else None
    except UnicodeDecodeError:
        return None
    except READ_ERRORS as error:
        raise store_error(f"--input {uri} can't be read", error) from error


def _image_units(folder: str, names: Sequence[str], columns: Columns) -> Iterable[Unit]:
    _check_names([columns.id, columns.image], columns, folder)
    if columns.image_root is not None and lies_in(plain_uri(columns.image_root), folder) is None:
        raise UsageError(
            f"--image-root {columns.image_root} is not above --input {folder}, whose images are its own files; leave "
            "--image-root out"
        )
    for start in range(0, len(names), IMAGES_PER_UNIT):
        yield Unit("images", folder, members=tuple(names[start : start + IMAGES_PER_UNIT]))


def _table_units(
    kind: str, uris: Sequence[str], storage: Storage, columns: Columns, passed: PassedOver
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
            return [*(unit for units in found for unit in units), *unreadable]
        units = list(threads.map(lambda uri: _unit(kind, uri, storage), uris))
    _check_records(units, storage, columns)
    return [*units, *unreadable]


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


def _check_records(units: Sequence[Unit], storage: Storage, columns: Columns) -> None:
    """Look for the columns in the first records of a file. Later ones may differ: they are rejected one by one."""
    bad: tuple[Unit, list[Record]] | None = None
    for unit in units[:TRIED]:
        peeked = list(islice(read(unit, storage, columns, images=False), PEEKED))
        records = [record for record in peeked if record.columns and not (record.reject and unit.format == "tar")]
        if records:
            _check_columns(unit, records, alone=len(peeked) == 1, columns=columns)
            return
        if unit.format == "jsonl" and bad is None and peeked and all(_is_no_json(record) for record in peeked):
            bad = unit, peeked
    if bad is not None:
        unit, (first, *others) = bad
        looked = f"its first {len(others) + 1} lines" if others else "it"
        raise UsageError(
            f"{unit.uri}: no row can be read from {looked}: {first.reject.message if first.reject else ''}. A job "
            "reads JSON lines, an object on each, or a list of objects"
        )


def _is_no_json(record: Record) -> bool:
    reject = record.reject
    return reject is not None and (reject.error == "bad_row" or NO_JSON in reject.message)


def _check_columns(unit: Unit, records: Sequence[Record], alone: bool, columns: Columns) -> None:
    names = {name for record in records for name in record.columns}
    if unit.format == "tar":
        names |= {columns.id, columns.image}  # which its members' names and images are, where there are any
    if unit.format == "jsonl" and alone and columns.id not in names:
        _check_object(records[0].columns, unit.uri)
    _check_names(sorted(names), columns, unit.uri)


def _check_object(values: dict[str, object], uri: str) -> None:
    """Raise a UsageError for a file that is one JSON object with lists or objects in it, such as COCO's annotations."""
    lists = [name for name, value in values.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    name = posixpath.basename(uri)
    if lists:
        how = f"jq -c '.[\"{lists[0]}\"][]' {name} > rows.jsonl"
    elif values and all(isinstance(value, dict) for value in values.values()):
        how = f"jq -c 'to_entries[] | {{id: .key, image: .key}} + .value' {name} > rows.jsonl"
    else:
        return
    shown = ", ".join(repr(name) for name in list(values)[:5]) + (", …" if len(values) > 5 else "")
    raise UsageError(f"{uri} is one JSON object, with {shown}; a job reads JSON lines or a list of objects: {how}")


def _check_names(names: Sequence[str], columns: Columns, uri: str) -> None:
    """Raise a UsageError if a column is missing. A conversation may be about no image."""
    talk, needed = columns.conversations, [("--id-column", columns.id)]
    needed += [("--image-column", columns.image)] if talk is None else [("--conversations-column", talk)]
    needed += [] if columns.choices is None else [("--choices-column", columns.choices)]
    for option, name in needed:
        if name not in names:
            raise UsageError(f"{uri} has no column {name!r}; {option} must be one of {', '.join(names)}")
    if columns.stratum is not None and columns.stratum not in names:
        raise UsageError(f"--thresholds go by {columns.stratum!r}, and {uri} has no such column")
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
