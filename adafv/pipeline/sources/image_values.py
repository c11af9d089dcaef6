"""Images that stand in an Arrow array, as Python values: encoded bytes, paths and URIs, pixels, or lists of such.

Nothing here takes Python's time for each byte or pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.sources.arrow_types import (
    FIXED_TENSORS,
    PICKLES,
    UUID,
    as_stored,
    extension_of,
    is_bytes,
    is_list,
    is_number,
    is_text,
    metadata_of,
    shape_of,
    stored,
    types,
)
from adafv.pipeline.sources.pixels import STARTS, encode_pixels, fits
from adafv.pipeline.sources.records import IMAGE_FIELDS, Unreadable
from adafv.pipeline.sources.values import ArrayReader, listed, lists, struct_parts, structs, text_reader

# Of a tensor's axes: as they lie in memory, or channels first there and last for whoever reads them, or the other way
# round. Writers and readers don't agree on which of two orders a permutation means; of these it makes no difference.
KNOWN_ORDERS = ((), (0, 1), (0, 1, 2), (1, 2, 0), (2, 0, 1))


def image_reader(field: pa.Field) -> ArrayReader | None:
    """Of images: encoded bytes, paths and URIs, structs with these, pixels, or lists of such."""
    type, extension = stored(field.type), extension_of(field)
    if extension in (PICKLES, UUID):
        return None
    if extension in FIXED_TENSORS and is_list(type):
        shape = shape_of(field)
        return partial(_tensors, shape=shape) if shape and fits(shape) and is_number(type.value_type) else None
    if isinstance(field.type, pa.FixedShapeTensorType):
        shape, order = tuple(field.type.shape), tuple(field.type.permutation or ())
        known = fits(shape) and order in KNOWN_ORDERS and is_number(field.type.value_type)
        return partial(_tensors, shape=shape) if known else None
    if types.is_null(type) or is_text(type) or is_bytes(type):
        return listed
    if types.is_struct(type):
        return None if b"permutation" in metadata_of(field) else _image_struct_reader(type)
    return _image_list_reader(type) if is_list(type) else None


def _image_struct_reader(type: pa.StructType) -> ArrayReader | None:
    data, shape = (type.get_field_index(name) for name in ("data", "shape"))
    if data >= 0 and shape >= 0:  # pixels of any shape, as Ray Data writes them
        inner, sizes = stored(type.field(data).type), stored(type.field(shape).type)
        numbers = is_bytes(inner) or (is_list(inner) and is_number(stored(inner.value_type)))
        whole = is_list(sizes) and types.is_integer(sizes.value_type)
        return partial(_shaped, data=data, shape=shape) if numbers and whole else None
    parts = struct_parts(type, IMAGE_FIELDS, _image_field_reader)
    return partial(structs, parts=parts) if parts else None


def _image_field_reader(field: pa.Field) -> ArrayReader | None:
    """Of one of an image's fields: bytes in `bytes`, texts in the others."""
    type = stored(field.type)
    if field.name != "bytes":
        return text_reader(field)
    if types.is_null(type) or (is_bytes(type) and extension_of(field) != PICKLES):
        return listed
    return _byte_lists if is_list(type) and types.is_integer(stored(type.value_type)) else None


def _image_list_reader(type: pa.DataType) -> ArrayReader | None:
    """Of lists of numbers (one image's bytes), of nested ones (pixels) and of lists of images."""
    inner = stored(type.value_type)
    if types.is_integer(inner) and not isinstance(type.value_type, pa.BaseExtensionType):
        return _byte_lists
    depth, leaf = 1, inner
    while is_list(leaf) and not extension_of(_value_field(type, depth)):
        depth, leaf = depth + 1, stored(leaf.value_type)
    if is_number(leaf) and depth == 3:
        return _nested_pixels
    if is_number(leaf) and depth == 2 and not extension_of(type.value_field):
        return _grey_or_files
    if depth > 1:
        return partial(lists, element=_nested_pixels) if depth == 4 and is_number(leaf) else None
    one = image_reader(type.value_field)
    return None if one is None else partial(lists, element=one)


def _value_field(type: pa.DataType, depth: int) -> pa.Field:
    """The field of a nested list's elements, so many levels down."""
    field = type.value_field
    for _ in range(depth - 1):
        field = stored(field.type).value_field
    return field


def _elements(array: pa.Array) -> Iterator[pa.Array | None]:
    """The elements of each of an array's lists."""
    array = as_stored(array)
    return (as_stored(array[i].values) if array[i].is_valid else None for i in range(len(array)))


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
    held, shapes = as_stored(pc.struct_field(array, [data])), listed(pc.struct_field(array, [shape]))
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
