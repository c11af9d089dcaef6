"""Arrow's arrays as Python values, by what a column is for: a reader for each type that can serve, None for others.

A value is never asked of an extension type: those of Ray are Python classes of which one unpickles, and a data set's
author is nobody whose pickles one opens. What a type stores is read instead, and what it means is told by its name,
which stands in the field's metadata where a process doesn't know the type.

What can't be read is an `Unreadable` in its place. Nothing here takes Python's time for each byte or pixel.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.sources.pixels import STARTS, encode_pixels, fits
from adafv.pipeline.sources.records import IMAGE_FIELDS, Unreadable

ArrayReader = Callable[[pa.Array], Iterable[Any]]
FIXED_TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")
PICKLES = "ray.data.arrow_pickled_object"
UUID = "arrow.uuid"
# Of a tensor's axes: as they lie in memory, or channels first there and last for whoever reads them, or the other way
# round. Writers and readers don't agree on which of two orders a permutation means; of these it makes no difference.
KNOWN_ORDERS = ((), (0, 1), (0, 1, 2), (1, 2, 0), (2, 0, 1))
NOT_UTF8 = Unreadable("holds text that isn't UTF-8")
DIGITS = {pa.float16(): 11, pa.float32(): 24}  # bits up to which a float tells whole numbers apart
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


def _metadata(field: pa.Field) -> bytes:
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


def text_reader(field: pa.Field) -> ArrayReader | None:
    """Of texts, and of nothing else."""
    type = stored(field.type)
    if types.is_null(type) or (is_text(type) and extension_of(field) != PICKLES):
        return _listed
    return None


def value_reader(field: pa.Field) -> ArrayReader | None:
    """Of what can be an id or stand in a prompt: texts, numbers, UUIDs."""
    type = stored(field.type)
    if extension_of(field) == UUID and types.is_fixed_size_binary(type) and type.byte_width == 16:
        return _uuids
    if types.is_float16(type) or types.is_float32(type):
        return _short_floats
    if types.is_integer(type) or types.is_float64(type) or types.is_decimal(type):
        return _listed
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
    return None if one is None else partial(_lists, element=one)


def choices_reader(field: pa.Field) -> ArrayReader | None:
    """Of lists of texts and numbers."""
    type = stored(field.type)
    if types.is_null(type):
        return _listed
    one = value_reader(type.value_field) if is_list(type) else None
    return None if one is None else partial(_lists, element=one)


def conversation_reader(field: pa.Field) -> ArrayReader | None:
    """Of lists of {"from", "value"}."""
    type = stored(field.type)
    if types.is_null(type):
        return _listed
    if not is_list(type):
        return None
    turn = stored(type.value_type)
    if types.is_null(turn):
        return partial(_lists, element=_listed)
    parts = _parts(turn, ("from", "value"), text_reader)
    if parts is None or len(parts) < 2:
        return None
    return partial(_lists, element=partial(_structs, parts=parts))


def answer_reader(field: pa.Field) -> ArrayReader | None:
    """Of what right answers may be in: texts and numbers, lists of them, and structs, of which other fields are left
    out."""
    type = stored(field.type)
    if is_list(type):
        one = answer_reader(type.value_field)
        return None if one is None else partial(_lists, element=one)
    if types.is_struct(type):
        found = ((part.name, (place, answer_reader(part))) for place, part in enumerate(type))
        known = {name: (place, reader) for name, (place, reader) in found if reader is not None}
        return partial(_structs, parts=known) if known else None
    return _listed if types.is_boolean(type) else value_reader(field)


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


def image_reader(field: pa.Field) -> ArrayReader | None:
    """Of images: encoded bytes, paths and URIs, structs with these, pixels, or lists of such."""
    type, extension = stored(field.type), extension_of(field)
    if extension in (PICKLES, UUID):
        return None
    if extension in FIXED_TENSORS and is_list(type):
        shape = _shape(field)
        return partial(_tensors, shape=shape) if shape and fits(shape) and _is_number(type.value_type) else None
    if isinstance(field.type, pa.FixedShapeTensorType):
        shape, order = tuple(field.type.shape), tuple(field.type.permutation or ())
        known = fits(shape) and order in KNOWN_ORDERS and _is_number(field.type.value_type)
        return partial(_tensors, shape=shape) if known else None
    if types.is_null(type) or is_text(type) or is_bytes(type):
        return _listed
    if types.is_struct(type):
        return None if b"permutation" in _metadata(field) else _image_struct_reader(type)
    return _image_list_reader(type) if is_list(type) else None


def _image_struct_reader(type: pa.StructType) -> ArrayReader | None:
    data, shape = (type.get_field_index(name) for name in ("data", "shape"))
    if data >= 0 and shape >= 0:  # pixels of any shape, as Ray Data writes them
        inner, sizes = stored(type.field(data).type), stored(type.field(shape).type)
        numbers = is_bytes(inner) or (is_list(inner) and _is_number(stored(inner.value_type)))
        whole = is_list(sizes) and types.is_integer(sizes.value_type)
        return partial(_shaped, data=data, shape=shape) if numbers and whole else None
    parts = _parts(type, IMAGE_FIELDS, _image_field_reader)
    return partial(_structs, parts=parts) if parts else None


def _image_field_reader(field: pa.Field) -> ArrayReader | None:
    """Of one of an image's fields: bytes in `bytes`, texts in the others."""
    type = stored(field.type)
    if field.name != "bytes":
        return text_reader(field)
    if types.is_null(type) or (is_bytes(type) and extension_of(field) != PICKLES):
        return _listed
    return _byte_lists if is_list(type) and types.is_integer(stored(type.value_type)) else None


def _image_list_reader(type: pa.DataType) -> ArrayReader | None:
    """Of lists of numbers (one image's bytes), of nested ones (pixels) and of lists of images."""
    inner = stored(type.value_type)
    if types.is_integer(inner) and not isinstance(type.value_type, pa.BaseExtensionType):
        return _byte_lists
    depth, leaf = 1, inner
    while is_list(leaf) and not extension_of(_value_field(type, depth)):
        depth, leaf = depth + 1, stored(leaf.value_type)
    if _is_number(leaf) and depth == 3:
        return _nested_pixels
    if _is_number(leaf) and depth == 2 and not extension_of(type.value_field):
        return _grey_or_files
    if depth > 1:
        return partial(_lists, element=_nested_pixels) if depth == 4 and _is_number(leaf) else None
    one = image_reader(type.value_field)
    return None if one is None else partial(_lists, element=one)


def _value_field(type: pa.DataType, depth: int) -> pa.Field:
    """The field of a nested list's elements, so many levels down."""
    field = type.value_field
    for _ in range(depth - 1):
        field = stored(field.type).value_field
    return field


def _parts(type: pa.DataType, names: Iterable[str], reader: Callable[[pa.Field], ArrayReader | None]) -> Any:
    """The readers of a struct's fields, by name and place: of those that it has. None where one can't be read."""
    if not types.is_struct(type):
        return None
    found = {}
    for name in names:
        if len(type.get_all_field_indices(name)) > 1:
            return None
        place = type.get_field_index(name)
        if place >= 0:
            found[name] = place, reader(type.field(place))
    return None if any(one is None for _, one in found.values()) else found


def _is_number(type: pa.DataType) -> bool:
    return types.is_integer(type) or types.is_floating(type) or types.is_boolean(type)


def _shape(field: pa.Field) -> tuple[int, ...] | None:
    """The shape of a tensor type of Ray Data's; None where it isn't told."""
    try:
        known = isinstance(field.type, pa.BaseExtensionType)
        shape = field.type.shape if known else json.loads(_metadata(field))
        return tuple(int(size) for size in shape)
    except (AttributeError, TypeError, ValueError):
        return None


def _listed(array: pa.Array) -> Iterable[Any]:
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


def _elements(array: pa.Array) -> Iterator[pa.Array | None]:
    """The elements of each of an array's lists."""
    array = as_stored(array)
    return (as_stored(array[i].values) if array[i].is_valid else None for i in range(len(array)))


def _lists(array: pa.Array, element: ArrayReader) -> Iterable[Any]:
    array = as_stored(array)
    return (list(element(array[i].values)) if array[i].is_valid else None for i in range(len(array)))


def _structs(array: pa.Array, parts: dict[str, tuple[int, ArrayReader]]) -> Iterable[Any]:
    array = as_stored(array)
    columns = [reader(pc.struct_field(array, [place])) for place, reader in parts.values()]
    rows = zip(array.is_valid().to_pylist(), zip(*columns, strict=True), strict=True)
    return (dict(zip(parts, values, strict=True)) if valid else None for valid, values in rows)


def _numbers(values: pa.Array | pa.Scalar) -> np.ndarray | Unreadable:
    """Numbers, or the bytes of a scalar, without a copy where that can be."""
    if isinstance(values, pa.Scalar):
        return np.frombuffer(values.as_buffer(), np.uint8)
    if values.null_count:
        return Unreadable("holds a list of numbers with nulls among them")
    return values.to_numpy(zero_copy_only=False)


def _byte_lists(array: pa.Array) -> Iterable[Any]:
    """Encoded images, each as a list of its bytes."""
    return (None if values is None else _bytes(values) for values in _elements(array))


def _bytes(values: pa.Array) -> bytes | Unreadable:
    numbers = _numbers(values)
    if isinstance(numbers, Unreadable) or numbers.dtype.itemsize == 1:
        return numbers if isinstance(numbers, Unreadable) else numbers.tobytes()
    if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
        return Unreadable("holds a list of numbers that are no bytes; pixels need a shape, as in a tensor")
    return numbers.astype(np.uint8).tobytes()


def _tensors(array: pa.Array, shape: tuple[int, ...]) -> Iterable[Any]:
    return (None if values is None else _pixels(values, shape) for values in _elements(array))


def _shaped(array: pa.Array, data: int, shape: int) -> Iterable[Any]:
    array = as_stored(array)
    held, shapes = as_stored(pc.struct_field(array, [data])), _listed(pc.struct_field(array, [shape]))
    found = _elements(held) if is_list(held.type) else (one if one.is_valid else None for one in held)
    for values, size in zip(found, shapes, strict=True):
        if values is None:
            yield None
        elif size is None or None in size:
            yield Unreadable("holds pixels without a shape")
        else:
            yield _pixels(values, tuple(size))


def _pixels(values: pa.Array | pa.Scalar, shape: tuple[int, ...]) -> bytes | Unreadable:
    numbers = _numbers(values)
    if isinstance(numbers, Unreadable):
        return numbers
    if len(numbers) != math.prod(shape) or min(shape, default=0) < 0:
        return Unreadable(f"holds {len(numbers)} numbers for a tensor of {' x '.join(map(str, shape))}")
    return encode_pixels(numbers.reshape(shape))


def _nested_pixels(array: pa.Array) -> Iterable[Any]:
    """Pixels as lists of rows of pixels."""
    return (None if rows is None else _nested(rows) for rows in _elements(array))


def _nested(rows: pa.Array) -> bytes | Unreadable:
    """Pixels in lists, which must be of one length at each level."""
    shape, values = [len(rows)], rows
    while is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1 or None in lengths:
            return Unreadable("holds nested lists of several lengths; pixels are in rows of one")
        shape.append(lengths[0] if lengths else 0)
        values = as_stored(pc.list_flatten(values))
    return _pixels(values, tuple(shape))


def _grey_or_files(array: pa.Array) -> Iterable[Any]:
    """Lists of lists of numbers: image files, where they begin like some, or else the rows of a grey image."""
    for rows in _elements(array):
        if rows is None:
            yield None
            continue
        first = next((values for values in _elements(rows) if values is not None and len(values)), None)
        whole = first is not None and types.is_integer(first.type)
        start = _bytes(first[:4]) if first is not None and whole else b""
        if isinstance(start, bytes) and start.startswith(STARTS):
            yield list(_byte_lists(rows))
        else:
            yield _nested(rows)
