"""The images of a few rows, of each the first, found again where the job found them, in small.

A label says where its image came from, but not in which row of the input an image lies whose bytes the input holds. So
what has a path or URI of its own is fetched as the job fetched it, under the same rules; and for what hasn't, the input
is looked through for the row's id: of Parquet, the ids alone, and then the row groups that hold them.

What strangers made is decoded in a child process, as the job does it. Whatever goes wrong is the image's alone: it is
then a sentence that says why there is none.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adafv.pipeline.errors import JobError, UsageError
from adafv.pipeline.images.decode import memory_bound
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.isolation import Isolated, StartError, work
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.arrow_types import is_list, is_text, stored
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record
from adafv.pipeline.sources.rows import id_of, row_of
from adafv.pipeline.sources.units import READ_ERRORS, Unit
from adafv.pipeline.sources.values import id_reader
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme
from adafv.reporting.drawing import Picture
from adafv.reporting.thumbnails import Thumbnails, picture_of

SECONDS = 60.0  # for finding all images; what isn't found by then has none
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 40_000_000  # less than a job may label: a report has no workers' memory
DECODING = 20.0  # seconds for one image

Found = Picture | str  # or why there is none


@dataclass(frozen=True)
class Access:
    """Where images may be taken from.

    Attributes:
        input: where the input is now; empty for where the run's record says it was.
        image_root: likewise, what relative paths are relative to.
        allow_http: whether http(s) is fetched.
    """

    storage: Storage
    input: tuple[str, ...] = ()
    image_root: str | None = None
    allow_http: bool = False


@dataclass(frozen=True)
class Wanted:
    """A row whose image is wanted. `image`: what its label says of it; `uri`: and where it lay, where it says that."""

    id: str
    image: str
    uri: str | None = None


def find_pictures(
    rows: Sequence[Mapping[str, Any]], configs: Mapping[str, Mapping[str, Any]], access: Access
) -> dict[str, Found]:
    """The images of `rows` by their ids.

    Args:
        rows: labels or rejects, with `id`, `image`, `image_uri` and `run_id`.
        configs: the options of each run, by its name.
    """
    end = time.monotonic() + SECONDS
    found: dict[str, Found] = {}
    memory = memory_bound(MAX_PIXELS, MAX_BYTES)
    process = Isolated(partial(Thumbnails, MAX_PIXELS), DECODING, memory)
    try:
        for run_id in dict.fromkeys(row["run_id"] for row in rows):
            own = [row for row in rows if row["run_id"] == run_id]
            wanted = [Wanted(row["id"], row["image"] or "", row.get("image_uri")) for row in own]
            for id, data in _images(wanted, configs.get(run_id, {}), access, end):
                found[id] = data if isinstance(data, str) else _small(process, data)
    finally:
        process.close()
    return found


def _small(process: Isolated, data: bytes) -> Found:
    try:
        answers, failures = work(process, pa.table({"data": pa.array([data], pa.large_binary())}))
    except StartError as error:
        return f"no process to decode it in: {safe_message(str(error))}"
    return safe_message(failures[0].message) if failures else picture_of(answers[0])


def _images(
    wanted: Sequence[Wanted], config: Mapping[str, Any], access: Access, end: float
) -> Iterator[tuple[str, bytes | str]]:
    """The images of a run's rows, encoded, by the rows' ids."""
    try:
        source = RunInput.of(config, access)
    except (JobError, *READ_ERRORS) as error:
        yield from ((row.id, safe_message(str(error))) for row in wanted)
        return
    left = {row.id: row for row in wanted}
    for row in wanted:
        if time.monotonic() > end:
            break
        found = source.place_of(row)
        if found is not None:
            yield row.id, source.fetch(*found)
            del left[row.id]
    for id, data in source.look_for(left, end):
        yield id, data
        del left[id]
    reason = f"not found in {SECONDS:.0f} s" if time.monotonic() > end else "the input has no row with this id any more"
    yield from ((id, reason) for id in left)


class RunInput:
    """A run's input, as it is now."""

    def __init__(self, units: Sequence[Unit], embeds: bool, columns: Columns, fetcher: Fetcher) -> None:
        self._units, self._embeds, self._columns, self._fetcher = units, embeds, columns, fetcher
        self._roots = [columns.image_root] if columns.image_root else list(dict.fromkeys(unit.root for unit in units))

    @classmethod
    def of(cls, config: Mapping[str, Any], access: Access) -> RunInput:
        """The input of a run with these options. Raises UsageError where it can't be had."""
        folder = str(config.get("folder") or "")  # where the run was started
        inputs = access.input or [_from(folder, str(uri)) for uri in config.get("input") or ()]
        if not inputs:
            raise UsageError("the run's record doesn't say where its input was; --input names it")
        id, image, question = (str(config.get(f"{name}_column") or name) for name in ("id", "image", "question"))
        talk, root = config.get("conversations_column"), access.image_root
        if root is None and config.get("image_root"):
            root = _from(folder, str(config["image_root"]))
        # A conversation shows the images up to the turn that is asked, which has to be asked for that.
        prompt = "" if talk is None else f"{{{question}}}"
        columns = Columns(
            id=id,
            image=image,
            question=question,
            prompt=prompt,
            prompt_columns=_asked(config, question),
            image_root=root,
            conversations=talk,
        )
        sources = [open_source(str(uri), access.storage, columns).units for uri in inputs]
        embeds = any(_embeds(units[0], columns.image, access.storage) for units in sources if units)
        units = [unit for some in sources for unit in some]
        return cls(units, embeds, columns, Fetcher(access.storage, MAX_BYTES, access.allow_http))

    def place_of(self, row: Wanted) -> tuple[str, str] | None:
        """The path or URI of a row's image, and what it is relative to; None where only the input's row tells these."""
        if self._embeds or not row.image:
            return None
        whole = row.image.lower().startswith(("s3://", "http://", "https://"))
        if whole or len(self._roots) == 1:
            return row.image, self._roots[0]
        inside = (root for root in self._roots if row.uri and row.uri.startswith(root.rstrip("/") + "/"))
        root = max(inside, key=len, default=None)
        return None if root is None or row.uri is None else (row.uri, root)

    def fetch(self, image: str, root: str) -> bytes | str:
        if image.endswith("?…"):
            return "its URI was signed or had a query, and neither is on record"
        data = self._fetcher.fetch(image, root)
        return data.message if isinstance(data, Reject) else data

    def look_for(self, wanted: Mapping[str, Wanted], end: float) -> Iterator[tuple[str, bytes | str]]:
        """The images of rows by their ids, until all are found, or the time is up."""
        ids = set(wanted)
        for unit in self._units:
            here = ids if unit.format != "tar" else {id for id in ids if _stands_in(wanted[id].image, unit)}
            for record in self._records(unit, here, end):
                id = id_of(record.columns.get(self._columns.id)) or ""
                ids.discard(id)
                yield id, self._image(record)
            if not ids or time.monotonic() > end:
                return

    def _records(self, unit: Unit, ids: Iterable[str], end: float) -> Iterator[Record]:
        """The records of a unit with one of the ids, the first of each."""
        left = set(ids)
        if not left:
            return
        if unit.format == "parquet" and self._columns.id != BY_PLACE:
            unit = _narrowed(unit, left, self._columns, self._fetcher.storage)
        for record in read(unit, self._fetcher.storage, self._columns):
            id = id_of(record.columns.get(self._columns.id))
            if id in left:
                left.discard(id)
                yield record
            if not left or time.monotonic() > end:
                return

    def _image(self, record: Record) -> bytes | str:
        [row] = self._fetcher.fetch_rows([row_of(record, self._columns)])
        if row.reject:
            return row.reject.message
        return (row.images[0].data if row.images else None) or "the row has no image any more"


def _from(folder: str, uri: str) -> str:
    """What a run's record names, as it was meant in the folder where the run was started."""
    if uri.startswith("@"):
        return "@" + _from(folder, uri[1:])
    return uri if has_scheme(uri) else os.path.join(folder, uri)


def _asked(config: Mapping[str, Any], question: str) -> tuple[str, ...]:
    """The columns that decide how many questions a row of a run asked: the question's, if the prompt named it."""
    return (question,) if f"{{{question}}}" in str(config.get("prompt", "")) else ()


def _embeds(unit: Unit, column: str, storage: Storage) -> bool:
    """Whether the unit's rows hold their images, or may."""
    if unit.format != "parquet":
        return unit.format == "tar"
    filesystem, path = storage.filesystem(unit.uri)
    with filesystem.open_input_file(path) as file:
        schema = pq.read_schema(file)
    if column not in schema.names:  # conversations about no image
        return False
    kind = stored(schema.field(column).type)
    return not is_text(stored(kind.value_type) if is_list(kind) else kind)


def _stands_in(image: str, unit: Unit) -> bool:
    """Whether the place `image`, a tar's URI and its member, is in a tar of this name, wherever that is now."""
    tar, mark, _ = image.rpartition("#")
    return bool(mark) and posixpath.basename(tar) == posixpath.basename(unit.uri)


def _narrowed(unit: Unit, ids: set[str], columns: Columns, storage: Storage) -> Unit:
    """Of a Parquet file's unit, only the row groups that hold one of the ids."""
    filesystem, path = storage.filesystem(unit.uri)
    wanted = pa.array(sorted(ids | {id.rpartition("/")[0] for id in ids}))  # a question's, and its row's
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            groups = tuple(group for group in unit.groups if _holds(file, group, columns.id, wanted))
    except READ_ERRORS:  # as the records that follow will tell
        return unit
    return replace(unit, groups=groups)


def _holds(file: pq.ParquetFile, group: int, column: str, wanted: pa.Array) -> bool:
    """Whether a row group may have one of the ids, by its least and its greatest, or else by reading them."""
    metadata = file.metadata.row_group(group)
    chunks = (each for each in map(metadata.column, range(metadata.num_columns)) if each.path_in_schema == column)
    known = next(chunks).statistics
    if known is not None and known.has_min_max and isinstance(known.min, str):
        inside = pc.and_(pc.greater_equal(wanted, known.min), pc.less_equal(wanted, known.max))
        if not pc.any(inside).as_py():
            return False
    ids = file.read_row_group(group, columns=[column])
    if is_text(stored(ids.schema.field(column).type)):
        return bool(pc.any(pc.is_in(ids.column(column).cast(pa.string()), wanted)).as_py())
    reader = id_reader(ids.schema.field(column))
    found = (id_of(one) for chunk in ids.column(column).chunks for one in (reader(chunk) if reader else ()))
    return not set(wanted.to_pylist()).isdisjoint(found)
