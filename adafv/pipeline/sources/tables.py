"""Which of a table's columns are read, and how: by their types, which are known before any row is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.sources.arrow_types import is_list, stored, type_name
from adafv.pipeline.sources.image_values import image_reader
from adafv.pipeline.sources.records import VIDEO, Columns
from adafv.pipeline.sources.values import (
    ArrayReader,
    answer_reader,
    any_reader,
    choices_reader,
    conversation_reader,
    id_reader,
    presence_reader,
    questions_reader,
    text_reader,
    value_reader,
)

IDS = "an id is a text, a whole number or a UUID: cast the column to text"
IMAGES = (
    "an image is encoded (binary, or a list of uint8), a path or URI, a struct of {bytes, path}, or pixels in a tensor "
    "of height x width x 1, 3 or 4; or a list of these"
)
WORDS = "a prompt is made of texts and numbers: cast the column to text"
CHOICES = "choices are a list of texts or numbers"
PLAIN = "--where and --columns take no bytes"
TALK = 'a conversation is a list of {"from", "value"}, both text'


def readers_of(schema: pa.Schema, columns: Columns) -> dict[str, ArrayReader]:
    """How to read those columns of a table that a job needs, by name; columns that the table lacks are left out."""
    found: dict[str, ArrayReader] = {}
    for name, reader, _ in _roles(schema, columns):
        reader = reader or answer_reader(schema.field(name))  # what a job refuses may be asked for by others
        if reader is not None:
            found.setdefault(name, reader)  # of an id above all: every pass must find the same ids
    return found


def counting(schema: pa.Schema, columns: Columns) -> list[str]:
    """The columns that say which records a table's rows are: the ids, what may ask several questions, and what
    `--where` names."""
    names = [columns.id]
    if columns.conversations is not None:
        names.append(columns.conversations)
    elif columns.asks and (field := _field(schema, columns.question)) is not None and is_list(stored(field.type)):
        names.append(columns.question)
    names += columns.filtered
    return [name for name in dict.fromkeys(names) if _field(schema, name) is not None]


class SchemaError(OSError):
    """A file whose columns can't be told."""


def open_parquet(source: pa.NativeFile) -> tuple[pq.ParquetFile, pa.Schema]:
    """A Parquet file, which checks its pages where they have checksums, and its schema.

    Raises SchemaError where a name isn't UTF-8, or an extension type's own code can't read what the file says of it.
    """
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        schema = file.schema_arrow
        schema.names  # noqa: B018  (only now are they decoded)
    except UnicodeDecodeError as error:
        raise SchemaError(f"the name {error.object!r} of one of its columns isn't UTF-8; rename it") from error
    except pa.ArrowException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SchemaError(f"its schema can't be read: {type(error).__name__}: {error}") from error
    return file, schema


def check_types(schema: pa.Schema, columns: Columns, uri: str, alone: bool) -> None:
    """Raise a UsageError where a column stands twice, or is of a type of which no row could be labelled.

    Args:
        alone: whether this file's rows are all there are, so that a column of nulls has no values elsewhere.
    """
    names = schema.names
    for name in columns.wanted:
        if names.count(name) > 1:
            raise UsageError(f"{uri} has {names.count(name)} columns of the name {name!r}; rename all but one")
    for name, reader, demand in _roles(schema, columns):
        if reader is None:
            raise UsageError(f"{uri}: column {name!r} is of type {type_name(schema.field(name))}; {demand}")
        empty = pa.types.is_null(stored(schema.field(name).type)) and demand and columns.conversations is None
        if alone and empty:
            raise UsageError(f"{uri}: column {name!r} holds nothing but nulls; {demand}")


def _roles(schema: pa.Schema, columns: Columns) -> Iterator[tuple[str, ArrayReader | None, str]]:
    """Each needed column's name, its reader, and what its type must be; a column may have several roles."""
    roles: list[tuple[str, Callable[[pa.Field], ArrayReader | None], str]] = [(columns.id, id_reader, IDS)]
    for name in columns.prompt_columns:
        if name == columns.question and columns.conversations is not None:
            continue  # the turns stand for it
        roles.append((name, questions_reader if name == columns.question else value_reader, WORDS))
    if columns.conversations is not None:
        roles.append((columns.conversations, conversation_reader, TALK))
        roles += [(name, presence_reader, "") for name in VIDEO]
    if columns.stratum is not None:
        roles.append((columns.stratum, value_reader, WORDS))
    roles.append((columns.image, image_reader, IMAGES))
    if columns.choices is not None:
        roles.append((columns.choices, choices_reader, CHOICES))
    roles += [(name, any_reader, PLAIN) for name in (*columns.filtered, *columns.carried)]
    for name, reader_of, demand in roles:
        if (field := _field(schema, name)) is not None:
            yield name, reader_of(field), demand
    unasked = _field(schema, columns.question) if columns.question not in {name for name, *_ in roles} else None
    if unasked is not None and (reader := text_reader(unasked)) is not None:  # shown with the label, if it can be
        yield columns.question, reader, ""


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    """The column of this name; None where there is none, or several."""
    index = schema.get_field_index(name)
    return None if index < 0 else schema.field(index)
