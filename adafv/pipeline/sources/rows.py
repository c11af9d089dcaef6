"""The row that travels: what a source makes of a record, and the Arrow tables between stages.

A `Record` is what a file holds: named columns of any type. A `Row` is what the job needs of it, with the prompt
filled in, so that the other columns need not travel. Whatever a column may hold, `row_of` makes a row of it: of a
record that is no good, a row with its reject.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adafv.pipeline.rejects import Reject, clean, public_uri
from adafv.pipeline.storage import has_scheme

if TYPE_CHECKING:
    from adafv.pipeline.options import JobOptions


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a record mean what, and what to ask."""

    id: str
    image: str
    question: str
    prompt: str
    prompt_columns: tuple[str, ...]
    image_root: str | None

    @classmethod
    def of(cls, job: JobOptions) -> Columns:
        root = job.image_root
        root = root if root is None or has_scheme(root) else os.path.abspath(root)
        return cls(job.id_column, job.image_column, job.question_column, job.prompt, job.prompt_columns(), root)

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.id, self.image, self.question, *self.prompt_columns)))


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an input file.

    Attributes:
        place: where it lies: the file's URI, `#`, and its number or name in it.
        root: the folder that a relative image path is relative to.
        columns: its values by name.
        reject: why it could not be read.
    """

    place: str
    root: str
    columns: dict[str, Any]
    reject: Reject | None = None


class Unreadable:
    """Stands for a value that its file format could not turn into a Python object."""


@dataclass(frozen=True, slots=True)
class Row:
    """What travels from stage to stage until there is a sample.

    Attributes:
        id: None only in rejects.
        image: what the outputs say of the image: its path or URI, without secrets, or the place of the row that has it.
        image_uri: what is still to be fetched, relative to `image_root` unless absolute.
        image_bytes: the encoded image.
        question: as in the input; `prompt`: as the model will be asked.
    """

    id: str | None
    image: str
    image_uri: str | None = None
    image_root: str | None = None
    image_bytes: bytes | None = None
    question: str | None = None
    prompt: str | None = None
    fetch_ms: float = 0.0
    reject: Reject | None = None

    def rejected(self, reject: Reject) -> Row:
        """This row as a reject: without its image, which nobody needs any more."""
        return replace(self, reject=reject, image_bytes=None, image_uri=None)


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("image_uri", pa.string()),
        ("image_root", pa.string()),
        ("image_bytes", pa.large_binary()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("fetch_ms", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)


def to_table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([to_dict(row) for row in rows], schema=SCHEMA)


def to_dict(row: Row) -> dict[str, Any]:
    """The row by column of `SCHEMA`."""
    values = {name: getattr(row, name) for name in SCHEMA.names if name not in ("error", "message")}
    if row.reject is not None:
        values |= {"error": row.reject.error, "message": row.reject.message}
    return values


def from_table(table: pa.Table) -> list[Row]:
    return [_from_dict(values) for values in table.to_pylist()]


def _from_dict(values: dict[str, Any]) -> Row:
    error, message = values.pop("error"), values.pop("message")
    return Row(**values, reject=Reject(error, message) if error else None)


def id_of(value: Any) -> str | None:
    """The id that a column's value stands for; None where it stands for none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return clean(str(value)) or None


def row_of(record: Record, columns: Columns) -> Row:
    """The row of a record. Never raises."""
    values = record.columns
    question = values.get(columns.question)
    row = Row(
        id=id_of(values.get(columns.id)),
        image=record.place,
        image_root=columns.image_root or record.root,
        question=clean(question) if isinstance(question, str) else None,
    )
    if record.reject is not None:
        return row.rejected(record.reject)
    if row.id is None:
        return row.rejected(_bad_id(columns.id, values.get(columns.id)))
    return _with_prompt(_with_image(row, values.get(columns.image), columns.image), values, columns)


def _bad_id(column: str, value: Any) -> Reject:
    if value is None or value == "":
        return Reject("missing_id", f"column {column!r} is {'null or absent' if value is None else 'empty'}")
    return Reject("missing_id", f"column {column!r} is of type {type(value).__name__}; an id is a text or an integer")


def _with_image(row: Row, value: Any, column: str) -> Row:
    path = None
    if isinstance(value, dict):  # Hugging Face's struct: the bytes, or where they are, or both
        value, path = value.get("bytes"), value.get("path")
        value = path if value is None else value
    image = public_uri(clean(path)) if isinstance(path, str) and path else row.image
    if isinstance(value, bytes):
        return replace(row, image=image, image_bytes=value)
    if isinstance(value, str) and value:
        return replace(row, image=public_uri(clean(value)), image_uri=clean(value))
    if value is None or value == "":
        return row.rejected(Reject("image_missing", f"column {column!r} is null, absent or empty"))
    wanted = "bytes, a {bytes, path} struct, or a path or URI"
    return row.rejected(Reject("bad_row", f"column {column!r} is of type {type(value).__name__}; it must be {wanted}"))


def _with_prompt(row: Row, values: dict[str, Any], columns: Columns) -> Row:
    if row.reject is not None:
        return row
    texts: dict[str, str] = {}
    for name in columns.prompt_columns:
        value = values.get(name)
        if value is None:
            return row.rejected(Reject("prompt_incomplete", f"column {name!r} is null or absent; --prompt names it"))
        if not isinstance(value, str | int | float):
            kind = type(value).__name__
            return row.rejected(
                Reject("bad_row", f"column {name!r} is of type {kind}; --prompt needs text or a number")
            )
        texts[name] = clean(str(value))
    return replace(row, prompt=clean(columns.prompt).format_map(texts))
