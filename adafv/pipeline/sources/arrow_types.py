"""Arrow's types: which are text, bytes and lists, what an extension type stores and is called.

A value is never asked of an extension type: those of Ray are Python classes of which one unpickles, and a data set's
author is nobody whose pickles one opens. What a type stores is read instead, and what it means is told by its name,
which stands in the field's metadata where a process doesn't know the type.
"""

from __future__ import annotations

import json

import pyarrow as pa

FIXED_TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")
PICKLES = "ray.data.arrow_pickled_object"
UUID = "arrow.uuid"
types = pa.types


def extension_of(field: pa.Field) -> str:
    """The name of a field's extension type; empty where it has none."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    return (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")


def type_name(field: pa.Field) -> str:
    """A field's type in words; of an extension also its name."""
    name, type = extension_of(field), str(field.type)
    return f"{name} ({stored(field.type)})" if name else type


def metadata_of(field: pa.Field) -> bytes:
    """What a field says of its extension type, where the process doesn't know that."""
    return (field.metadata or {}).get(b"ARROW:extension:metadata", b"")


def stored(type: pa.DataType) -> pa.DataType:
    """The type that holds the values: of an extension what it stores, of a dictionary its values' type."""
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
    return (
        types.is_binary(type)
        or types.is_large_binary(type)
        or types.is_binary_view(type)
        or types.is_fixed_size_binary(type)
    )


def is_list(type: pa.DataType) -> bool:
    return (
        types.is_list(type)
        or types.is_large_list(type)
        or types.is_fixed_size_list(type)
        or types.is_list_view(type)
        or types.is_large_list_view(type)
    )


def is_number(type: pa.DataType) -> bool:
    return types.is_integer(type) or types.is_floating(type) or types.is_boolean(type)


def shape_of(field: pa.Field) -> tuple[int, ...] | None:
    """The shape of a tensor type of Ray Data's; None where it isn't told."""
    try:
        known = isinstance(field.type, pa.BaseExtensionType)
        shape = field.type.shape if known else json.loads(metadata_of(field))
        return tuple(int(size) for size in shape)
    except (AttributeError, TypeError, ValueError):
        return None
