"""Which columns of a table are read, and how, by their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.sources.image_values import image_reader
from adafv.pipeline.sources.records import VIDEO, Columns
from adafv.pipeline.sources.values import (
    ArrayReader,
    extension_of,
    id_values,
    is_choices,
    is_conversation,
    is_list,
    is_plain,
    is_question,
    is_value,
    is_words,
    listed,
    stored,
)

IDS = "an id is a text, a whole number or a UUID: cast the column to text"
IMAGES = (
    "an image is encoded (binary, or a list of uint8), a path or URI, a struct of {bytes, path}, or pixels in a tensor "
    "of height x width x 1, 3 or 4; or a list of these"
)
WORDS = "a prompt is made of texts and numbers: cast the column to text"
CHOICES = "choices are a list of texts or numbers"
PLAIN = "--where and --columns take no bytes"
AHEAD = 8 * 2**20  # bytes read at once, or a whole page; by default pyarrow reads a row group's column at once
TALK = 'a conversation is a list of {"from", "value"}, both text'


def readers_of(schema: pa.Schema, columns: Columns) -> dict[str, ArrayReader]:
    """The readers of the columns that a job needs, by name, without those that the table lacks."""
    found: dict[str, ArrayReader] = {}
    for name in dict.fromkeys(name for name, _, _ in _roles(schema, columns)):
        field = schema.field(name)
        reader = image_reader(field) if name == columns.image else id_values if name == columns.id else listed
        if reader is not None and (name == columns.image or name in VIDEO or is_plain(field)):
            found[name] = reader  # also of a type that a job refuses: a calibration may read it
    return found


def counting(schema: pa.Schema, columns: Columns) -> list[str]:
    """The columns that decide which records a table's rows are: ids, lists of questions, and those that `--where`
    names."""
    names = [columns.id]
    if columns.conversations is not None:
        names.append(columns.conversations)
    elif columns.asks and (field := _field(schema, columns.question)) is not None and is_list(stored(field.type)):
        names.append(columns.question)
    names += columns.filtered
    return [name for name in dict.fromkeys(names) if _field(schema, name) is not None]


class SchemaError(OSError):
    """A file whose schema can't be read."""


def open_parquet(source: pa.NativeFile) -> tuple[pq.ParquetFile, pa.Schema]:
    """A Parquet file, with page checksums verified, and its schema.

    Raises SchemaError if a name isn't UTF-8, or an extension type rejects its metadata.
    """
    try:
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=AHEAD, page_checksum_verification=True)
        schema = file.schema_arrow
        schema.names  # noqa: B018  (decodes the names)
    except UnicodeDecodeError as error:
        raise SchemaError(f"the name {error.object!r} of one of its columns isn't UTF-8; rename it") from error
    except pa.ArrowException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SchemaError(f"its schema can't be read: {type(error).__name__}: {error}") from error
    return file, schema


def check_types(schema: pa.Schema, columns: Columns, uri: str, alone: bool) -> None:
    """Raise UsageError if a column appears twice, or no row with its type could be labelled.

    Args:
        alone: whether this file has all the rows, so that a column of nulls has no values elsewhere.
    """
    names = schema.names
    for name in columns.wanted:
        if names.count(name) > 1:
            raise UsageError(f"{uri} has {names.count(name)} columns of the name {name!r}; rename all but one")
    for name, usable, demand in _roles(schema, columns):
        if not usable:
            raise UsageError(f"{uri}: column {name!r} is of type {_type_name(schema.field(name))}; {demand}")
        needed = demand not in ("", PLAIN) and columns.conversations is None
        empty = pa.types.is_null(stored(schema.field(name).type)) and needed
        if alone and empty:
            raise UsageError(f"{uri}: column {name!r} holds nothing but nulls; {demand}")


def _roles(schema: pa.Schema, columns: Columns) -> Iterator[tuple[str, bool, str]]:
    """Each needed column's name, whether its type will do, and the demand on that; a column may have several roles."""
    roles: list[tuple[str, Callable[[pa.Field], object], str]] = [(columns.id, is_value, IDS)]
    for name in columns.prompt_columns:
        if name == columns.question and columns.conversations is not None:
            continue  # replaced by the turns
        roles.append((name, is_question if name == columns.question else is_value, WORDS))
    if columns.conversations is not None:
        roles.append((columns.conversations, is_conversation, TALK))
        roles += [(name, lambda _: True, "") for name in VIDEO]
    if columns.stratum is not None:
        roles.append((columns.stratum, is_value, WORDS))
    roles.append((columns.image, image_reader, IMAGES))
    if columns.choices is not None:
        roles.append((columns.choices, is_choices, CHOICES))
    roles += [(name, is_plain, PLAIN) for name in (*columns.filtered, *columns.carried)]
    for name, is_usable, demand in roles:
        if (field := _field(schema, name)) is not None:
            yield name, bool(is_usable(field)), demand
    unasked = _field(schema, columns.question) if columns.question not in {name for name, *_ in roles} else None
    if unasked is not None and is_words(unasked):  # shown with the label if possible
        yield columns.question, True, ""


def _type_name(field: pa.Field) -> str:
    """A field's type in words, with the name of an extension."""
    name, type = extension_of(field), str(field.type)
    return f"{name} ({stored(field.type)})" if name else type


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    """The column of this name; None if there is none, or several."""
    index = schema.get_field_index(name)
    return None if index < 0 else schema.field(index)
