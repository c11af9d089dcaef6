"""Tables of all of Arrow's types, in each of the columns: what a job makes of them, up to the rows, without a model.

A schema is refused as a whole, by a usage error, or each of its rows is right or a reject; and every pass over the
table finds the same ids.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.errors import UsageError
from adafv.pipeline.rejects import ERRORS
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import row_of, to_table
from adafv.pipeline.store.storage import Storage
from tests.pipeline.pictures import SOUND

ROWS = 4
PLAIN = Columns(id="id", image="image", question="question", prompt="{question}", prompt_columns=("question",))
FIXED = replace(PLAIN, prompt="w1", prompt_columns=())
WORDED = replace(PLAIN, prompt="{question} {other}", prompt_columns=("question", "other"))
TALK = replace(PLAIN, conversations="conversations")
NAMES = ("id", "image", "question", "other", "conversations", "video")
ODD_NAMES = ("", " ", "image.bytes", "question.list.element", "é", "ID", "\x00", "a" * 1000)

LEAVES: list[Callable[[random.Random], pa.DataType]] = [
    lambda luck: luck.choice((pa.string(), pa.large_string(), pa.string_view())),
    lambda luck: luck.choice((pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(luck.choice((1, 16, 100))))),
    lambda luck: luck.choice((pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64())),
    lambda luck: luck.choice((pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null())),
    lambda luck: pa.decimal128(luck.randint(1, 38), luck.choice((0, 0, 1))),
    lambda luck: pa.decimal256(luck.randint(40, 76), luck.choice((0, 0, 5))),
    lambda luck: luck.choice((pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("ns"))),
    lambda luck: pa.timestamp(luck.choice(("s", "ms", "us", "ns")), luck.choice((None, "UTC", "Foo/Bar", "+07:30"))),
    lambda luck: pa.duration(luck.choice(("s", "ns"))),
    lambda luck: luck.choice((pa.uuid(), pa.json_(), pa.bool8())),
]


def table(number: int, seed: int) -> tuple[pa.Table, Columns]:
    """A table, and what a job is told of it."""
    luck = random.Random(f"schema {seed} {number}")
    columns = luck.choice((PLAIN, PLAIN, FIXED, WORDED, TALK))
    arrays, names, odd = [], [], luck.choice((0.1, 0.2, 0.5))
    for name in NAMES:
        names.append(name)
        arrays.append(column(luck) if luck.random() < odd else ordinary(name))
    for _ in range(luck.choice((0, 0, 1, 2))):
        names.append(luck.choice((*ODD_NAMES, *NAMES)))
        arrays.append(column(luck))
    return pa.table(arrays, names=names), columns


def ordinary(name: str) -> pa.Array:
    if name == "id":
        return pa.array([f"r{i}" for i in range(ROWS)])
    if name == "image":
        return pa.array([SOUND["plain.png"]] * ROWS)
    if name == "conversations":
        return pa.array([[{"from": "human", "value": "w1"}]] * ROWS)
    return pa.array(["w1"] * ROWS) if name != "video" else pa.nulls(ROWS, pa.string())


def column(luck: random.Random) -> pa.Array:
    """Values of a random type; some null."""
    make = luck.choice((tensors, extension, nested, nested, nested))
    return make(luck)


def nested(luck: random.Random) -> pa.Array:
    return values(type_of(luck, luck.choice((0, 0, 0, 1, 1, 2, 3, 4))), ROWS, luck)


def type_of(luck: random.Random, depth: int) -> pa.DataType:
    if not depth:
        return luck.choice(LEAVES)(luck)
    inner = type_of(luck, depth - 1)
    kind = luck.randrange(8)
    if kind < 3:
        return luck.choice((pa.list_, pa.large_list, pa.list_view))(inner)
    if kind == 3:
        return pa.list_(inner, luck.randint(1, 3))
    if kind == 4 and not isinstance(inner, pa.BaseExtensionType):
        return pa.map_(pa.string(), inner)
    if kind == 5 and not depth - 1 and not pa.types.is_null(inner) and not isinstance(inner, pa.BaseExtensionType):
        return pa.dictionary(pa.int32(), inner)
    fields = luck.choice((("bytes", "path"), ("path",), ("url",), ("data", "shape"), ("from", "value"), ("x", "y")))
    other = type_of(luck, depth - 1)
    return pa.struct([(name, luck.choice((inner, other, pa.string(), pa.binary()))) for name in fields])


def values(type: pa.DataType, count: int, luck: random.Random) -> pa.Array:
    """So many values, a few of them null."""
    types = pa.types
    mask = np.array([luck.random() < 0.15 for _ in range(count)], bool)
    if isinstance(type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type, values(type.storage_type, count, luck))
    if types.is_null(type):
        return pa.nulls(count)
    if types.is_dictionary(type):
        return values(type.value_type, count, luck).dictionary_encode().cast(type)
    if types.is_struct(type):
        parts = [values(field.type, count, luck) for field in type]
        return pa.StructArray.from_arrays(parts, fields=list(type), mask=pa.array(mask))
    if types.is_fixed_size_list(type):
        return pa.FixedSizeListArray.from_arrays(values(type.value_type, count * type.list_size, luck), type=type)
    if types.is_map(type):
        lengths = np.cumsum([0, *(luck.randint(0, 2) for _ in range(count))])
        keys = pa.array([f"k{i}" for i in range(lengths[-1])], pa.string())
        return pa.MapArray.from_arrays(lengths, keys, values(type.item_type, len(keys), luck))
    if types.is_list(type) or types.is_large_list(type) or types.is_list_view(type):
        lengths = [luck.choice((0, 1, 1, 2, 3, 4)) for _ in range(count)]
        inner = values(type.value_type, sum(lengths), luck)
        offsets = np.cumsum([0, *lengths])
        if types.is_large_list(type):
            return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), inner)
        if types.is_list(type):
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner)
        return pa.ListViewArray.from_arrays(pa.array(offsets[:-1], pa.int32()), pa.array(lengths, pa.int32()), inner)
    return leaves(type, count, mask, luck)


def leaves(type: pa.DataType, count: int, mask: np.ndarray, luck: random.Random) -> pa.Array:
    types = pa.types
    if types.is_fixed_size_binary(type):
        made: list[Any] = [luck.randbytes(type.byte_width) for _ in range(count)]
    elif types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        made = [
            luck.choice(("", "w1", "a.png", "\x00", "17", "https://x.org/a", "<image>", "{}")) for _ in range(count)
        ]
        if types.is_string(type) and luck.random() < 0.1:  # bytes that claim to be UTF-8
            broken = pa.array([luck.choice((b"w\xc3", b"w")) for _ in range(count)], pa.binary())
            return pa.Array.from_buffers(type, count, broken.buffers())
    elif types.is_binary(type) or types.is_large_binary(type) or types.is_binary_view(type):
        made = [luck.choice((b"", SOUND["plain.png"], luck.randbytes(9))) for _ in range(count)]
    elif types.is_floating(type):
        made = [luck.choice((0.0, -0.0, 0.5, 17.0, 1e4, float("nan"), float("inf"))) for _ in range(count)]
        made = np.array(made, type.to_pandas_dtype()).tolist() if not types.is_float16(type) else made
        return pa.array(np.array(made, type.to_pandas_dtype()), type, mask=mask)
    elif types.is_boolean(type):
        made = [luck.random() < 0.5 for _ in range(count)]
    elif types.is_decimal(type):
        made = [luck.choice((0, 1, 7)) for _ in range(count)]
        type_, made = type, [None if gone else one for one, gone in zip(made, mask, strict=True)]
        return pa.array(made, pa.int64()).cast(type_, safe=False) if type.precision > 20 else _decimals(made, type)
    else:
        bits = type.bit_width
        unsigned = types.is_unsigned_integer(type)
        edges = (0, 1, 2 ** (bits - 1) - 1, 0 if unsigned else -(2 ** (bits - 1)), luck.randrange(2 ** (bits - 1)))
        made = [luck.choice(edges) for _ in range(count)]
        integer = pa.array(np.array(made, f"{'u' if unsigned else 'i'}{bits // 8}"), mask=mask)
        return integer if types.is_integer(type) else integer.view(type)
    return pa.array([None if gone else one for one, gone in zip(made, mask, strict=True)], type)


def _decimals(made: list[Any], type: pa.DataType) -> pa.Array:
    small = type.precision - type.scale < 1
    return pa.array([None if one is None else 0 if small else one for one in made], type)


def tensors(luck: random.Random) -> pa.Array:
    """As Ray Data and Arrow write them."""
    shape = luck.choice(((4, 5, 3), (4, 5, 1), (4, 5, 4), (3, 6, 7), (4, 5), (4, 5, 2), (7,), (1, 2, 3, 3), (0, 3, 3)))
    dtype = luck.choice((np.uint8, np.uint8, np.float32, np.int64, np.uint16, np.float16, np.bool_))
    arrays = (np.random.default_rng(luck.randrange(99)).random((ROWS, *shape)) * luck.choice((1, 255, 999))).astype(
        dtype
    )
    from ray.data._internal.tensor_extensions import arrow

    kind = luck.randrange(4)
    if kind == 0 and np.prod(shape) and dtype != np.bool_:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(arrays)
    if kind == 1 and dtype != np.bool_:
        ragged = np.empty(ROWS, object)
        ragged[:] = [array[: 1 + i % 3] for i, array in enumerate(arrays)]
        return arrow.ArrowVariableShapedTensorArray.from_numpy(ragged)
    made = (arrow.ArrowTensorType, arrow.ArrowTensorTypeV2)[kind == 2]
    type = made(luck.choice((shape, (2, 2, 3))), pa.from_numpy_dtype(dtype))
    storage = pa.array([luck.choice((array.ravel(), array.ravel(), None)) for array in arrays], type.storage_type)
    return pa.ExtensionArray.from_storage(type, storage)


def extension(luck: random.Random) -> pa.Array:
    """Extension types, on the storage that they have or on any: and pickles, which must stay shut."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    if luck.random() < 0.3:
        return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pa.array([BOMB] * ROWS, pa.large_binary()))
    return values(luck.choice((pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.binary(), "x", "y"))), ROWS, luck)


BOMB = b"cos\n_exit\n(I66\ntR."  # unpickled, it ends this process


def check(number: int, seed: int, path: Path) -> str:
    """What comes of a schema: `refused`, or the outcomes of its rows. Raises whatever is wrong with it."""
    made, columns = table(number, seed)
    try:
        pq.write_table(made, path, store_schema=random.Random(f"{seed} {number}").random() < 0.8)
    except (pa.ArrowException, ValueError):
        return "unwritable"
    try:
        units = open_source(str(path), Storage(), columns).units
    except UsageError as error:
        assert str(path) in str(error) and len(str(error)) > len(str(path)) + 10, error
        return "refused"
    narrow = [
        record.columns.get("id") for unit in units for record in read_unit(unit, Storage(), columns, images=False)
    ]
    records = [record for unit in units for record in read_unit(unit, Storage(), columns)]
    assert [record.columns.get("id") for record in records] == narrow, "the passes differ"
    rows = [row_of(record, columns) for record in records]
    assert len(rows) >= ROWS and all(row.id or row.reject for row in rows)
    assert all(row.reject is None or row.reject.error in ERRORS for row in rows)
    to_table(rows)
    return "labelled" if any(row.reject is None for row in rows) else "rejected"


def fuzz(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """All of them; which raised, and what."""
    outcomes: Counter[str] = Counter()
    problems = []
    for number in range(count):
        try:
            outcomes[check(number, seed, folder / "schema.parquet")] += 1
        except Exception as error:  # whatever it is, it is what was looked for
            problems.append(f"schema {number}: {type(error).__name__}: {error}")
    return {"count": count, "outcomes": dict(outcomes.most_common()), "problems": problems}
