"""Images in an Arrow array as Python values: encoded bytes, paths and URIs, pixels, or lists of these. No Python
code runs per byte or pixel.

Pixels become an image file for the later stages: an uncompressed TIFF, whose size is that of the pixels, so the limits
on bytes and pixels apply.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from adafv.pipeline.sources.records import IMAGE_FIELDS, Unreadable
from adafv.pipeline.sources.values import (
    ArrayReader,
    as_stored,
    elements,
    extension_of,
    has_words,
    is_bytes,
    is_list,
    is_text,
    listed,
    lists,
    stored,
    structs,
    types,
)

FIXED_TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")
PICKLES = "ray.data.arrow_pickled_object"
UUID = "arrow.uuid"
# Permutations of a tensor's axes: none, or channels moved from first to last or back. Writers and readers disagree on
# the direction of a permutation; for these it makes no difference.
KNOWN_ORDERS = ((), (0, 1), (0, 1, 2), (1, 2, 0), (2, 0, 1))
CHANNELS = (1, 3, 4)


def image_reader(field: pa.Field, several: bool = True) -> ArrayReader | None:
    """A reader of images: encoded bytes, paths and URIs, structs of these, tensors, or with `several` lists of these.
    None for other types."""
    type, extension = stored(field.type), extension_of(field)
    if extension in (PICKLES, UUID):
        return None
    if extension in FIXED_TENSORS and is_list(type):
        shape = _shape_of(field)
        return partial(_tensors, shape=shape) if shape and fits(shape) and _is_number(type.value_type) else None
    if isinstance(field.type, pa.FixedShapeTensorType):
        shape, order = tuple(field.type.shape), tuple(field.type.permutation or ())
        known = fits(shape) and order in KNOWN_ORDERS and _is_number(field.type.value_type)
        return partial(_tensors, shape=shape) if known else None
    if types.is_null(type) or is_text(type) or is_bytes(type):
        return listed
    if types.is_struct(type):
        return None if b"permutation" in _metadata_of(field) else _image_struct_reader(type)
    if is_list(type) and types.is_integer(stored(type.value_type)):
        return _byte_lists
    one = image_reader(type.value_field, several=False) if is_list(type) and several else None
    return None if one is None else partial(lists, element=one)


def _metadata_of(field: pa.Field) -> bytes:
    """The metadata of a field's extension type that the process doesn't know."""
    return (field.metadata or {}).get(b"ARROW:extension:metadata", b"")


def _shape_of(field: pa.Field) -> tuple[int, ...] | None:
    """The shape of a Ray Data tensor type; None if unknown."""
    try:
        known = isinstance(field.type, pa.BaseExtensionType)
        shape = field.type.shape if known else json.loads(_metadata_of(field))
        return tuple(int(size) for size in shape)
    except (AttributeError, TypeError, ValueError):
        return None


def _is_number(type: pa.DataType) -> bool:
    return types.is_integer(type) or types.is_floating(type) or types.is_boolean(type)


def _image_struct_reader(type: pa.StructType) -> ArrayReader | None:
    data, shape = (type.get_field_index(name) for name in ("data", "shape"))
    if data >= 0 and shape >= 0:  # pixels of any shape, as Ray Data writes them
        inner, sizes = stored(type.field(data).type), stored(type.field(shape).type)
        numbers = is_bytes(inner) or (is_list(inner) and _is_number(stored(inner.value_type)))
        whole = is_list(sizes) and types.is_integer(sizes.value_type)
        return partial(_shaped, data=data, shape=shape) if numbers and whole else None
    parts: dict[str, tuple[int, ArrayReader]] = {}
    for name in IMAGE_FIELDS:
        if type.get_all_field_indices(name):
            reader = _image_field_reader(type, name)
            if reader is None:
                return None
            parts[name] = type.get_field_index(name), reader
    return partial(structs, parts=parts) if parts else None


def _image_field_reader(type: pa.StructType, name: str) -> ArrayReader | None:
    """A reader of one field of an image struct: bytes in `bytes`, text in the others."""
    if name != "bytes":
        return listed if has_words(type, [name]) else None
    if len(type.get_all_field_indices(name)) > 1:
        return None
    field = type.field(name)
    inner = stored(field.type)
    if types.is_null(inner) or (is_bytes(inner) and extension_of(field) != PICKLES):
        return listed
    return _byte_lists if is_list(inner) and types.is_integer(stored(inner.value_type)) else None


def _numbers(values: pa.Array | pa.Scalar) -> np.ndarray | Unreadable:
    """Numbers, or the bytes of a scalar, without a copy if possible."""
    if isinstance(values, pa.Scalar):
        return np.frombuffer(values.as_buffer(), np.uint8)
    values = as_stored(values)
    if values.null_count:
        return Unreadable("holds a list of numbers with nulls among them")
    return values.to_numpy(zero_copy_only=False)


def _byte_lists(array: pa.Array) -> Iterable[Any]:
    """Encoded images, each a list of bytes."""
    return (None if values is None else _bytes(values) for values in elements(array))


def _bytes(values: pa.Array) -> bytes | Unreadable:
    numbers = _numbers(values)
    if isinstance(numbers, Unreadable) or numbers.dtype.itemsize == 1:
        return numbers if isinstance(numbers, Unreadable) else numbers.tobytes()
    if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
        return Unreadable("holds a list of numbers that are no bytes; pixels need a shape, as in a tensor")
    return numbers.astype(np.uint8).tobytes()


def _tensors(array: pa.Array, shape: tuple[int, ...]) -> Iterable[Any]:
    return (None if values is None else _pixels(values, shape) for values in elements(array))


def _shaped(array: pa.Array, data: int, shape: int) -> Iterable[Any]:
    array = as_stored(array)
    held, shapes = as_stored(pc.struct_field(array, [data])), listed(pc.struct_field(array, [shape]))
    found = elements(held) if is_list(held.type) else (one if one.is_valid else None for one in held)
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


def encode_pixels(pixels: np.ndarray) -> bytes | Unreadable:
    """The image file of an array [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels: grey, RGB, RGBA.

    Integers are 0 to 255, unsigned 16-bit ones 0 to 65,535; floats are 0 to 1 if all are, else 0 to 255.
    """
    if not fits(pixels.shape):
        shape = " x ".join(map(str, pixels.shape)) or "nothing"
        return Unreadable(f"is a tensor of {shape}; pixels are height x width x 1, 3 or 4")
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if not pixels.size:
        return Unreadable("is a tensor without pixels", "image_empty")
    scaled = _in_8_bits(pixels)
    if isinstance(scaled, Unreadable):
        return scaled
    file = io.BytesIO()
    grey = scaled.ndim == 3 and scaled.shape[2] == 1
    Image.fromarray(np.ascontiguousarray(scaled[:, :, 0] if grey else scaled)).save(file, "TIFF")
    return file.getvalue()


def fits(shape: tuple[int, ...]) -> bool:
    """Whether tensors of this shape can be images."""
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in CHANNELS or shape[0] in CHANNELS))


def _in_8_bits(pixels: np.ndarray) -> np.ndarray | Unreadable:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return np.rint(pixels.astype(np.float32) / 257).astype(np.uint8)
    low, high = pixels.min(), pixels.max()  # NaN if there is one
    if not (low >= 0 and high <= 255):
        wanted = "pixels are from 0 to 255, or from 0 to 1 as fractions"
        return Unreadable(f"holds values from {low:g} to {high:g}; {wanted}")
    if pixels.dtype.kind != "f":
        return pixels.astype(np.uint8)
    return np.rint(pixels.astype(np.float32) * np.float32(255 if high <= 1 else 1)).astype(np.uint8)
