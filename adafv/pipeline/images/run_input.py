"""A run's input as it is now, read again for the images of its labels.

A label names its image's path or URI, but not the input row of an image whose bytes the input holds. So an image with a
path or URI is fetched as the job fetched it, under the same rules; for others the input is searched by id: in Parquet
the ids alone, then the row groups that hold them.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.options import columns_of
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record
from adafv.pipeline.sources.rows import Row, id_of, row_of
from adafv.pipeline.sources.units import READ_ERRORS, Unit
from adafv.pipeline.sources.values import id_values, is_list, is_text, stored
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import as_root, has_scheme

MAX_BYTES = 64 * 2**20  # of an image, if the record doesn't say
ROWS_AT_ONCE = 32  # whose images are in memory


@dataclass(frozen=True)
class Access:
    """Where images may be taken from.

    Attributes:
        input: where the input is now; empty for where the run's record says.
        image_root: the same for what relative paths are relative to.
        allow_http: whether http(s) is fetched.
    """

    storage: Storage
    input: tuple[str, ...] = ()
    image_root: str | None = None
    allow_http: bool = False


@dataclass(frozen=True)
class Wanted:
    """A row whose image is wanted. `image`: its label's name for the image; `uri`: its full place, if known."""

    id: str
    image: str
    uri: str | None = None


class RunInput:
    def __init__(self, units: Sequence[Unit], embeds: bool, columns: Columns, fetcher: Fetcher) -> None:
        self._units, self._embeds, self._columns, self._fetcher = units, embeds, columns, fetcher
        self._roots = [columns.image_root] if columns.image_root else list(dict.fromkeys(unit.root for unit in units))

    @classmethod
    def of(cls, config: Mapping[str, Any], access: Access) -> RunInput:
        """The input of a run with these options. Raises UsageError if it isn't available."""
        folder = str(config.get("folder") or "")  # where the run was started
        inputs = access.input or [_from(folder, str(uri)) for uri in config.get("input") or ()]
        if not inputs:
            raise UsageError("the run's record doesn't say where its input was; give --input")
        id, image, question = (str(config.get(f"{name}_column") or name) for name in ("id", "image", "question"))
        talk, root = config.get("conversations_column"), access.image_root
        if root is None and config.get("image_root"):
            root = _from(folder, str(config["image_root"]))
        prompt = str(config.get("prompt") or ("" if talk is None else f"{{{question}}}"))
        prompts = tuple((str(text), float(weight)) for text, weight in config.get("prompts") or ())
        asked = [text for text, _ in prompts] or [prompt]  # a record has the default prompt beside prompts
        columns = Columns(
            id=id,
            image=image,
            question=question,
            prompt=prompt,
            prompts=prompts,
            prompt_columns=tuple(dict.fromkeys(name for text in asked for name in columns_of(text))),
            image_root=None if root is None else as_root(root),
            conversations=talk,
            where=config.get("where"),
        )
        own = replace(columns, image_root=None)  # images that are the input's files have moved with it
        opened = own if access.input else columns
        sources = [open_source(str(uri), access.storage, opened).units for uri in inputs]
        embeds = any(_embeds(units[0], columns.image, access.storage) for units in sources if units)
        units = [unit for some in sources for unit in some]
        if all(unit.format == "images" for unit in units):
            columns = opened
        local = config.get("allow_local") and _from(folder, str(config["allow_local"]))
        size = config.get("max_image_bytes") or MAX_BYTES
        return cls(units, embeds, columns, Fetcher(access.storage, size, access.allow_http, allow_local=local))

    def place_of(self, row: Wanted) -> tuple[str, str] | None:
        """The path or URI of a row's image, and its root; None if only the input's row tells."""
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
            return "its URI had a signature or query, which the record leaves out"
        data = self._fetcher.fetch(image, root)
        return data.message if isinstance(data, Reject) else data

    def look_for(self, wanted: Mapping[str, Wanted], end: float) -> Iterator[tuple[str, bytes | str]]:
        """The images of rows by id, until all are found or the time is up."""
        left = set(wanted)
        for unit in self._units:
            here = {id for id in left if unit.format != "tar" or _stands_in(wanted[id].image, unit)}
            for record in self._records(unit, here) if here else ():
                id = id_of(record.columns.get(self._columns.id))
                if id in here:  # the first record with it
                    here.remove(id)
                    left.remove(id)
                    yield id, self._image(record)
                if not here or time.monotonic() > end:
                    break
            if not left or time.monotonic() > end:
                return

    def rows(self, wanted: Callable[[str], bool]) -> Iterator[Row]:
        """The rows with wanted ids in the input's order, with their images or as rejects; and rejects without an id for
        what can't be read. A repeated id comes again."""

        def is_wanted(record: Record) -> bool:
            id = id_of(record.columns.get(self._columns.id))
            if id is None:
                return record.reject is not None and record.reject.error == "source_unreadable"
            return wanted(id)

        for unit in self._units:
            idle: list[bool] = []
            if unit.format == "parquet":  # row groups without a wanted row aren't read
                ids = read_unit(unit, self._fetcher.storage, self._columns, images=False)
                idle = [not is_wanted(record) for record in ids]
            records = filter(is_wanted, read_unit(unit, self._fetcher.storage, self._columns, idle=idle))
            while some := [row_of(record, self._columns) for record in islice(records, ROWS_AT_ONCE)]:
                yield from self._fetcher.fetch_rows(some)

    def _records(self, unit: Unit, ids: set[str]) -> Iterator[Record]:
        """The records of a unit, among them those with the ids."""
        if unit.format == "parquet" and self._columns.id != BY_PLACE:
            unit = _narrowed(unit, ids, self._columns, self._fetcher.storage)
        return read_unit(unit, self._fetcher.storage, self._columns)

    def _image(self, record: Record) -> bytes | str:
        [row] = self._fetcher.fetch_rows([row_of(record, self._columns)])
        if row.reject:
            return row.reject.message
        return (row.images[0].data if row.images else None) or "the row has no image any more"


def _from(folder: str, uri: str) -> str:
    """A path in a run's record, resolved in the folder where the run was started."""
    if uri.startswith("@"):
        return "@" + _from(folder, uri[1:])
    return uri if has_scheme(uri) else os.path.join(folder, uri)


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
    """Whether `image`, a tar's URI and a member, is in a tar with this file name."""
    tar, mark, _ = image.rpartition("#")
    return bool(mark) and posixpath.basename(tar) == posixpath.basename(unit.uri)


def _narrowed(unit: Unit, ids: set[str], columns: Columns, storage: Storage) -> Unit:
    """A Parquet unit with only the row groups that hold one of the ids."""
    filesystem, path = storage.filesystem(unit.uri)
    wanted = pa.array(sorted(ids | {id.rpartition("/")[0] for id in ids}))  # ids of questions, and of their rows
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            groups = tuple(group for group in unit.groups if _holds(file, group, columns.id, wanted))
    except READ_ERRORS:  # reading the records reports it
        return unit
    return replace(unit, groups=groups)


def _holds(file: pq.ParquetFile, group: int, column: str, wanted: pa.Array) -> bool:
    """Whether a row group may hold one of the ids, by its statistics, or else by reading them."""
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
    found = (id_of(one) for chunk in ids.column(column).chunks for one in id_values(chunk))
    return not set(wanted.to_pylist()).isdisjoint(found)
