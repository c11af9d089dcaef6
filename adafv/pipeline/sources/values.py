"""Arrow arrays as Python values, and the types that a column may have, by what it is for.

A value that can't be read is an `Unreadable`. Images have their own readers (`image_values`).

Values are never read through an extension type: some of Ray's unpickle them, and data sets aren't trusted. The storage
is read instead. The type's name is in the field's metadata if the process doesn't know the type.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.sources.records import Unreadable

ArrayReader = Callable[[pa.Array], Iterable[Any]]
NOT_UTF8 = Unreadable("holds text that isn't UTF-8")
DIGITS = {pa.float16(): 11, pa.float32(): 24}  # bits of whole numbers that a float type can hold
types = pa.types
_BYTES = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
_LISTS = (
    *(types.is_list, types.is_large_list, types.is_fixed_size_list),
    *(types.is_list_view, types.is_large_list_view),
)


def extension_of(field: pa.Field) -> str:
    """The name of a field's extension type, or empty."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    return (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")


def stored(type: pa.DataType) -> pa.DataType:
    """The type of the stored values: an extension's storage, a dictionary's value type."""
    while isinstance(type, pa.BaseExtensionType | pa.DictionaryType):
        type = type.storage_type if isinstance(type, pa.BaseExtensionType) else type.value_type
    return type


def as_stored(array: pa.Array) -> pa.Array:
    """The same values in their `stored` type."""
    while isinstance(array, pa.ExtensionArray | pa.DictionaryArray):
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.dictionary_decode()
    return array


def is_text(type: pa.DataType) -> bool:
    return types.is_string(type) or types.is_large_string(type) or types.is_string_view(type)


def is_bytes(type: pa.DataType) -> bool:
    return any(test(type) for test in _BYTES)


def is_list(type: pa.DataType) -> bool:
    return any(test(type) for test in _LISTS)


def is_words(field: pa.Field) -> bool:
    """Whether a column may hold texts only."""
    type = stored(field.type)
    return types.is_null(type) or is_text(type)


def is_value(field: pa.Field) -> bool:
    """Likewise ids and prompt values: texts, numbers, UUIDs."""
    type = stored(field.type)
    number = types.is_integer(type) or types.is_floating(type) or types.is_decimal(type)
    return number or isinstance(field.type, pa.UuidType) or is_words(field)


def is_question(field: pa.Field) -> bool:
    """Prompt values, or lists of texts."""
    type = stored(field.type)
    return is_words(type.value_field) if is_list(type) else is_value(field)


def is_choices(field: pa.Field) -> bool:
    """Lists of texts and numbers."""
    type = stored(field.type)
    return is_value(type.value_field) if is_list(type) else types.is_null(type)


def is_conversation(field: pa.Field) -> bool:
    """Lists of {"from", "value"}."""
    type = stored(field.type)
    turn = stored(type.value_type) if is_list(type) else type
    return types.is_null(turn) or (is_list(type) and types.is_struct(turn) and has_words(turn, ("from", "value")))


def has_words(type: pa.StructType, names: Iterable[str]) -> bool:
    """Whether a struct has one field of each name, for texts."""
    found = [type.get_all_field_indices(name) for name in names]
    return all(len(indices) == 1 and is_words(type.field(indices[0])) for indices in found)


def is_plain(field: pa.Field) -> bool:
    """Anything but bytes, and so no pickled objects."""
    return is_value(field) or not is_bytes(stored(field.type))


def id_values(array: pa.Array) -> Iterable[Any]:
    """Ids. Whole numbers that the float type may have rounded are unreadable: two ids could become one."""
    values = listed(array)
    bits = DIGITS.get(stored(array.type))
    if bits is None:
        return values
    rounded = Unreadable(f"is a float of a type that tells whole numbers apart only up to {2**bits}", "missing_id")
    return (rounded if one is not None and math.isfinite(one) and abs(one) > 2**bits else one for one in values)


def listed(array: pa.Array) -> Iterable[Any]:
    """The values of any array, UUIDs as texts. No code of an extension type runs, however deep it lies."""
    if isinstance(array.type, pa.UuidType):
        return (None if data is None else str(uuid.UUID(bytes=data)) for data in array.storage.to_pylist())
    array = as_stored(array)
    if array.type in DIGITS:  # with the digits they were written with: 0.1 in 32 bits isn't 0.10000000149011612
        array = array.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
    if types.is_map(array.type):
        return lists(array, lambda pairs: zip(*map(listed, pairs.flatten()), strict=True))
    if is_list(array.type):
        return lists(array, listed)
    if types.is_struct(array.type):
        return structs(array, {field.name: (index, listed) for index, field in enumerate(array.type)})
    try:
        return array.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # such as text that isn't UTF-8: find the bad values
        return [_one(value) for value in array]


def _one(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, OverflowError, pa.ArrowException):  # a date after 9999, an unknown time zone
        return Unreadable(f"holds a {scalar.type} that Python doesn't have")


def elements(array: pa.Array) -> Iterator[pa.Array | None]:
    """The elements of each list of an array."""
    return (one.values for one in as_stored(array))


def lists(array: pa.Array, element: ArrayReader) -> Iterable[Any]:
    return (None if values is None else list(element(values)) for values in elements(array))


def structs(array: pa.Array, parts: dict[str, tuple[int, ArrayReader]]) -> Iterable[Any]:
    """Structs with these fields, each with its index and its values' reader."""
    array = as_stored(array)
    columns = [reader(pc.struct_field(array, [index])) for index, reader in parts.values()]
    rows = zip(array.is_valid().to_pylist(), zip(*columns, strict=True), strict=True)
    return (dict(zip(parts, values, strict=True)) if valid else None for valid, values in rows)
