"""Arrow's arrays as Python values, by what a column is for: a reader for each type that can serve, None for others.

What can't be read is an `Unreadable` in its place. Images have readers of their own (`image_values`).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.sources.arrow_types import (
    PICKLES,
    UUID,
    as_stored,
    extension_of,
    is_bytes,
    is_list,
    is_text,
    stored,
    types,
)
from adafv.pipeline.sources.records import Unreadable

ArrayReader = Callable[[pa.Array], Iterable[Any]]
NOT_UTF8 = Unreadable("holds text that isn't UTF-8")
DIGITS = {pa.float16(): 11, pa.float32(): 24}  # bits up to which a float tells whole numbers apart


def text_reader(field: pa.Field) -> ArrayReader | None:
    """Of texts, and of nothing else."""
    type = stored(field.type)
    if types.is_null(type) or (is_text(type) and extension_of(field) != PICKLES):
        return listed
    return None


def value_reader(field: pa.Field) -> ArrayReader | None:
    """Of what can be an id or stand in a prompt: texts, numbers, UUIDs."""
    type = stored(field.type)
    if extension_of(field) == UUID and types.is_fixed_size_binary(type) and type.byte_width == 16:
        return _uuids
    if types.is_float16(type) or types.is_float32(type):
        return _short_floats
    if types.is_integer(type) or types.is_float64(type) or types.is_decimal(type):
        return listed
    return text_reader(field)


def id_reader(field: pa.Field) -> ArrayReader | None:
    """Of ids. A whole number that its type may have rounded is none: another would have become the same."""
    type = stored(field.type)
    return partial(_whole_floats, bits=DIGITS[type]) if type in DIGITS else value_reader(field)


def questions_reader(field: pa.Field) -> ArrayReader | None:
    """Of what can stand in a prompt, or of lists of texts."""
    type = stored(field.type)
    if not is_list(type):
        return value_reader(field)
    one = text_reader(type.value_field)
    return None if one is None else partial(lists, element=one)


def choices_reader(field: pa.Field) -> ArrayReader | None:
    """Of lists of texts and numbers."""
    type = stored(field.type)
    if types.is_null(type):
        return listed
    one = value_reader(type.value_field) if is_list(type) else None
    return None if one is None else partial(lists, element=one)


def conversation_reader(field: pa.Field) -> ArrayReader | None:
    """Of lists of {"from", "value"}."""
    type = stored(field.type)
    if types.is_null(type):
        return listed
    if not is_list(type):
        return None
    turn = stored(type.value_type)
    if types.is_null(turn):
        return partial(lists, element=listed)
    parts = struct_parts(turn, ("from", "value"), text_reader)
    if parts is None or len(parts) < 2:
        return None
    return partial(lists, element=partial(structs, parts=parts))


def answer_reader(field: pa.Field) -> ArrayReader | None:
    """Of what right answers may be in: texts and numbers, lists of them, and structs, of which other fields are left
    out."""
    type = stored(field.type)
    if is_list(type):
        one = answer_reader(type.value_field)
        return None if one is None else partial(lists, element=one)
    if types.is_struct(type):
        found = ((part.name, (index, answer_reader(part))) for index, part in enumerate(type))
        known = {name: (index, reader) for name, (index, reader) in found if reader is not None}
        return partial(structs, parts=known) if known else None
    return listed if types.is_boolean(type) else value_reader(field)


def any_reader(field: pa.Field) -> ArrayReader | None:
    """Of all that isn't bytes."""
    return None if is_bytes(stored(field.type)) or extension_of(field) == PICKLES else listed


def presence_reader(field: pa.Field) -> ArrayReader:
    """True where there is a value, neither null nor empty; None elsewhere."""
    type = stored(field.type)

    def read(array: pa.Array) -> Iterable[Any]:
        array = as_stored(array)
        there = array.is_valid()
        if is_text(type) or is_bytes(type):
            there = pc.and_(there, pc.fill_null(pc.greater(pc.binary_length(array), 0), False))
        elif is_list(type):
            there = pc.and_(there, pc.fill_null(pc.greater(pc.list_value_length(array), 0), False))
        return (one or None for one in there.to_pylist())

    return read


def struct_parts(type: pa.DataType, names: Iterable[str], reader: Callable[[pa.Field], ArrayReader | None]) -> Any:
    """The readers of those fields that a struct has, by name, each with the field's index. None where one can't be
    read.
    """
    if not types.is_struct(type):
        return None
    found = {}
    for name in names:
        if len(type.get_all_field_indices(name)) > 1:
            return None
        index = type.get_field_index(name)
        if index >= 0:
            found[name] = index, reader(type.field(index))
    return None if any(one is None for _, one in found.values()) else found


def listed(array: pa.Array) -> Iterable[Any]:
    array = as_stored(array)
    try:
        return array.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # text that isn't UTF-8: find the values at fault
        return [_one(value) for value in array]


def _one(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return NOT_UTF8


def _uuids(array: pa.Array) -> Iterable[Any]:
    return (None if data is None else str(uuid.UUID(bytes=data)) for data in as_stored(array).to_pylist())


def _short_floats(array: pa.Array) -> Iterable[Any]:
    """Floats with the digits that they were written with: a 0.1 in 32 bits is no 0.10000000149011612."""
    array = as_stored(array).cast(pa.float32())
    return array.cast(pa.string()).cast(pa.float64()).to_pylist()


def _whole_floats(array: pa.Array, bits: int) -> Iterable[Any]:
    rounded = Unreadable(f"is a float of a type that tells whole numbers apart only up to {2**bits}", "missing_id")
    return (
        rounded if one is not None and math.isfinite(one) and abs(one) > 2**bits else one
        for one in as_stored(array).to_pylist()
    )


def lists(array: pa.Array, element: ArrayReader) -> Iterable[Any]:
    array = as_stored(array)
    return (list(element(array[i].values)) if array[i].is_valid else None for i in range(len(array)))


def structs(array: pa.Array, parts: dict[str, tuple[int, ArrayReader]]) -> Iterable[Any]:
    array = as_stored(array)
    columns = [reader(pc.struct_field(array, [index])) for index, reader in parts.values()]
    rows = zip(array.is_valid().to_pylist(), zip(*columns, strict=True), strict=True)
    return (dict(zip(parts, values, strict=True)) if valid else None for valid, values in rows)
