"""Parquet's and Arrow's types in each of the columns: right rows, rejects, or a usage error that says what to do."""

from __future__ import annotations

import io
import json
import pickle
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.decode import decode
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import Row, row_of, to_table
from adafv.pipeline.store.storage import Storage
from tests.pipeline.pictures import SOUND, picture

COLUMNS = Columns(id="id", image="image", question="question", prompt="{question}", prompt_columns=("question",))
TALK = replace(COLUMNS, conversations="conversations")
YEAR = replace(COLUMNS, prompt="Taken in {year}.", prompt_columns=("year",))
JPEG, PNG = SOUND["plain.jpg"], SOUND["plain.png"]
RGB = np.asarray(picture())
BYTES = [list(JPEG), list(PNG)]


def rows_of(path: Path, columns: Columns = COLUMNS) -> list[Row]:
    """The rows of a file, which a pass over the ids alone has to find as well."""
    units = open_source(str(path), Storage(), columns).units
    narrow = [record for unit in units for record in read_unit(unit, Storage(), columns, images=False)]
    whole = [record for unit in units for record in read_unit(unit, Storage(), columns)]
    assert [one.columns.get(columns.id) for one in narrow] == [one.columns.get(columns.id) for one in whole]
    rows = [row_of(record, columns) for record in whole]
    to_table(rows)
    return rows


def write(path: Path, columns: Columns = COLUMNS, store_schema: bool = True, **given: Any) -> list[Row]:
    """The rows of a table with these columns, and ordinary ones for those that aren't given."""
    count = len(next(iter(given.values())))
    table = {"id": [f"r{i}" for i in range(count)], "image": ["a.jpg"] * count, "question": ["what?"] * count} | given
    pq.write_table(pa.table(table), path / "x.parquet", store_schema=store_schema)
    return rows_of(path / "x.parquet", columns)


def pixels_of(row: Row) -> list[np.ndarray]:
    """The pictures of a row, as the next stages will see them."""
    found = [decode(image.data or b"", 10**6) for image in row.images]
    assert all(isinstance(one, Image.Image) for one in found), (row.reject, found)
    return [np.asarray(one) for one in found]


# Ids: whole numbers and UUIDs of any type are texts.

UUIDS = [uuid.UUID(int=7), uuid.UUID(int=2**127 + 5)]
IDS = {
    "decimal": (pa.array([Decimal(17), Decimal(10) ** 30], pa.decimal128(38, 0)), ["17", "1" + "0" * 30]),
    "decimal with places": (pa.array([Decimal("17.00"), Decimal("3.00")], pa.decimal128(10, 2)), ["17", "3"]),
    "decimal256": (pa.array([Decimal(17), Decimal(10) ** 60], pa.decimal256(70, 0)), ["17", "1" + "0" * 60]),
    "float64": (pa.array([17.0, 2.0**53]), ["17", str(2**53)]),
    "float32": (pa.array([17.0, 2.0**24], pa.float32()), ["17", str(2**24)]),
    "float16": (pa.array(np.array([17.0, -3.0], np.float16)), ["17", "-3"]),
    "negative zero": (pa.array([-0.0, 1.0]), ["0", "1"]),
    "uint64": (pa.array([17, 2**64 - 1], pa.uint64()), ["17", str(2**64 - 1)]),
    "int8": (pa.array([17, -1], pa.int8()), ["17", "-1"]),
    "uuid": (pa.array([one.bytes for one in UUIDS], pa.uuid()), list(map(str, UUIDS))),
    "dictionary of integers": (pa.array([17, 3]).dictionary_encode(), ["17", "3"]),
    "dictionary of texts": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    "large text": (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    "text view": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
}


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("name", IDS)
def test_ids_of_any_type(tmp_path, name, store_schema):
    column, ids = IDS[name]
    rows = write(tmp_path, store_schema=store_schema, id=column)
    assert [row.id for row in rows] == ids and not any(row.reject for row in rows)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.5, 1.0]), "is 1.5; an id is a text or a whole number"),
        (pa.array([float("nan"), 1.0]), "null or absent (or NaN)"),
        (pa.array([float("inf"), 1.0]), "is inf; an id is"),
        (pa.array([2.0**53 + 2, 1.0]), "don't tell whole numbers apart"),
        (pa.array([2.0**24 + 2, 1.0], pa.float32()), "whole numbers apart only up to 16777216"),
        (pa.array([Decimal("1.50"), Decimal("1.00")], pa.decimal128(5, 2)), "is 1.50; an id is"),
    ],
)
def test_numbers_that_are_no_id(tmp_path, column, message):
    bad, good = write(tmp_path, id=column)
    assert bad.reject and bad.reject.error == "missing_id" and message in bad.reject.message
    assert good.id == "1" and good.reject is None


def test_the_same_id_in_other_types_is_the_same(tmp_path):
    columns = [
        pa.array([17]),
        pa.array([17.0]),
        pa.array([Decimal("17.0")]),
        pa.array(["17"]),
        pa.array([17], pa.uint8()),
    ]
    assert {write(tmp_path, id=column)[0].id for column in columns} == {"17"}
    (tmp_path / "x.jsonl").write_text('{"id": 17.0, "image": "a.jpg", "question": "what?"}')
    assert rows_of(tmp_path / "x.jsonl")[0].id == "17"


# What stands in a prompt.


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([2019.0]), "2019"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([2.5]), "2.5"),
        (pa.array([1e22]), "1e+22"),
        (pa.array([Decimal("19.90")], pa.decimal128(10, 2)), "19.90"),
        (pa.array([Decimal(10) ** 30], pa.decimal128(38, 0)), "1" + "0" * 30),
        (pa.array([2019], pa.uint16()).dictionary_encode(), "2019"),
        (pa.array([UUIDS[0].bytes], pa.uuid()), str(UUIDS[0])),
    ],
)
def test_numbers_in_a_prompt(tmp_path, column, text):
    [row] = write(tmp_path, YEAR, year=column)
    assert row.prompt == f"Taken in {text}."


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), "prompt_incomplete"), (None, "prompt_incomplete"), (float("inf"), "bad_row")],
)
def test_missing_numbers_are_no_words(tmp_path, value, error):
    bad, good = write(tmp_path, YEAR, year=pa.array([value, 2019.0]))
    assert bad.reject and bad.reject.error == error and good.prompt == "Taken in 2019."


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"id": 1, "image": "a", "question": NaN}', "prompt_incomplete"),
        ('{"id": 1, "image": "a", "question": ["what?", NaN]}', "prompt_incomplete"),
        ('{"id": 1, "image": "a", "question": Infinity}', "bad_row"),
        ('{"id": 1, "image": "a", "question": true}', "bad_row"),
        ('{"id": 1, "image": NaN, "question": "w"}', "image_missing"),
        ('{"id": 1, "image": ["a", NaN], "question": "w"}', "image_missing"),
        ('{"id": 1, "image": {"bytes": NaN, "path": NaN}, "question": "w"}', "image_missing"),
        ('{"id": NaN, "image": "a", "question": "w"}', "missing_id"),
    ],
)
def test_nan_in_json_is_missing(tmp_path, line, error):
    (tmp_path / "x.jsonl").write_text(line)
    [row] = rows_of(tmp_path / "x.jsonl")
    assert row.reject and row.reject.error == error


def test_nan_in_a_struct_leaves_the_rest(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "image": {"bytes": NaN, "path": "a.jpg"}, "question": "w"}')
    [row] = rows_of(tmp_path / "x.jsonl")
    assert row.reject is None and row.images[0].uri == "a.jpg"


def test_nan_in_a_conversation_is_missing(tmp_path):
    turns = '[{"from": "human", "value": "a"}, {"from": "gpt", "value": NaN}, {"from": "human", "value": %s}]'
    lines = [f'{{"id": {i}, "conversations": {turns % value}}}' for i, value in enumerate(('"b"', "NaN"))]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    first, second, bad = rows_of(tmp_path / "x.jsonl", TALK)
    assert first.reject is None and second.reject is None and len(second.turns) == 1  # a turn without an answer
    assert bad.reject and "turn 3 is null or NaN; it must be text" in bad.reject.message


# Images.


def files(type: pa.DataType) -> pa.Array:
    return pa.array(
        [np.frombuffer(data, np.uint8).astype(type.value_type.to_pandas_dtype()) for data in (JPEG, PNG)], type
    )


@pytest.mark.parametrize(
    "column",
    [
        files(pa.list_(pa.uint8())),
        files(pa.list_(pa.int8())),
        files(pa.large_list(pa.uint8())),
        files(pa.list_(pa.int64())),
        files(pa.list_view(pa.uint8())),
        pa.array([JPEG, PNG], pa.large_binary()),
        pa.array([JPEG, PNG], pa.binary_view()),
        pa.array([JPEG, PNG]).dictionary_encode(),
        pa.array([{"bytes": data, "path": None} for data in BYTES],
                 pa.struct({"bytes": pa.list_(pa.uint8()), "path": pa.string()})),
        pa.array([[{"bytes": data}] for data in BYTES], pa.list_(pa.struct({"bytes": pa.list_(pa.uint8())}))),
        pa.array([[data] for data in BYTES], pa.list_(pa.list_(pa.uint8()))),
    ],
    ids=lambda column: str(column.type)[:60],
)  # fmt: skip
def test_encoded_images_of_any_type(tmp_path, column):
    rows = write(tmp_path, image=column)
    assert [image.data for row in rows for image in row.images] == [JPEG, PNG]


def test_a_fixed_size_binary_is_an_image(tmp_path):
    [row] = write(tmp_path, image=pa.array([PNG], pa.binary(len(PNG))))
    assert row.images[0].data == PNG
    [row] = write(tmp_path, image=pa.array([list(PNG)], pa.list_(pa.uint8(), len(PNG))))
    assert row.images[0].data == PNG


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ([255, 216], "is of type int; it must be bytes, a {bytes, path} struct, a path or URI, or a list of them"),
        ({"bytes": [255, 216]}, "has bytes of type list; they must be binary"),
        ({"bytes": "aGk="}, "has bytes of type str; they must be binary"),
    ],
)
def test_json_has_no_bytes(tmp_path, image, said):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": 1, "image": image, "question": "w"}))
    [row] = rows_of(tmp_path / "x.jsonl")
    assert row.reject and row.reject.error == "bad_row" and said in row.reject.message


@pytest.mark.parametrize("value", [None, 256, -1], ids=str)
def test_numbers_that_are_no_bytes(tmp_path, value):
    [row] = write(tmp_path, image=pa.array([[1, value]], pa.list_(pa.int32())))
    assert row.reject and row.reject.error == "bad_row" and "list of numbers" in row.reject.message


def ray_tensors(arrays: list[np.ndarray], name: str = "arrow_tensor_v2") -> pa.Array:
    """A column as Ray Data writes it."""
    pytest.importorskip("ray.data")
    from ray.data._internal.tensor_extensions import arrow

    if len({array.shape for array in arrays}) > 1:
        ragged = np.empty(len(arrays), object)
        ragged[:] = arrays
        return arrow.ArrowVariableShapedTensorArray.from_numpy(ragged)
    kind = arrow.ArrowTensorTypeV2 if name.endswith("v2") else arrow.ArrowTensorType
    type = kind(arrays[0].shape, pa.from_numpy_dtype(arrays[0].dtype))
    return pa.ExtensionArray.from_storage(type, pa.array([array.ravel() for array in arrays], type.storage_type))


def fixed_tensors(arrays: list[np.ndarray]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(arrays))


def shaped(arrays: list[np.ndarray]) -> pa.Array:
    type = pa.struct({"data": pa.binary(), "shape": pa.list_(pa.int32())})
    return pa.array([{"data": array.tobytes(), "shape": array.shape} for array in arrays], type)


TENSORS = {
    "ray v1": lambda arrays: ray_tensors(arrays, "arrow_tensor"),
    "ray v2": ray_tensors,
    "arrow": fixed_tensors,
    "bytes with a shape": shaped,
}


@pytest.mark.parametrize("name", TENSORS)
def test_pixels_of_any_type(tmp_path, name):
    arrays = [RGB, RGB[::-1].copy()]
    for row, array in zip(write(tmp_path, image=TENSORS[name](arrays)), arrays, strict=True):
        assert (pixels_of(row)[0] == array).all()
    grey = RGB[:, :, 0].copy()
    for shape in (grey[:, :, None], grey):
        [row] = write(tmp_path, image=TENSORS[name]([shape]))
        assert (pixels_of(row)[0] == grey[:, :, None]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "uint16", "bool"])
def test_pixels_of_other_numbers(tmp_path, dtype):
    """All are 0 or 255 here."""
    full = {"f": 1, "i": 255, "u": 65535, "b": True}[np.dtype(dtype).kind]
    [row] = write(tmp_path, image=ray_tensors([((RGB > 127) * full).astype(dtype)]))
    assert (pixels_of(row)[0] == RGB).all()


def test_pixels_in_floats_up_to_255_and_transparent_ones_and_channels_first(tmp_path):
    [row] = write(tmp_path, image=ray_tensors([RGB.astype(np.float32)]))
    assert (pixels_of(row)[0] == RGB).all()
    [row] = write(tmp_path, image=ray_tensors([np.dstack([RGB, np.zeros_like(RGB[:, :, :1])])]))
    assert (pixels_of(row)[0] == 255).all(), "transparency is over white"
    [row] = write(tmp_path, image=ray_tensors([RGB.transpose(2, 0, 1).copy()]))
    assert (pixels_of(row)[0] == RGB).all()


def test_pixels_of_several_shapes_and_nulls(tmp_path):
    [one, two] = write(tmp_path, image=ray_tensors([RGB, RGB[:10].copy()]))
    assert (pixels_of(one)[0] == RGB).all() and (pixels_of(two)[0] == RGB[:10]).all()
    column = shaped([RGB])
    [good, bad] = write(tmp_path, image=pa.array([*column.to_pylist(), None], column.type))
    assert good.reject is None and bad.reject and bad.reject.error == "image_missing"


def test_lists_of_pixels_are_several_images(tmp_path):
    [row] = write(tmp_path, image=pa.ListArray.from_arrays([0, 2], shaped([RGB, RGB[:10]])))
    assert [array.shape for array in pixels_of(row)] == [RGB.shape, RGB[:10].shape]
    tensors = fixed_tensors([RGB, RGB])
    [row] = write(tmp_path, image=pa.ListArray.from_arrays([0, 2], tensors))
    assert len(pixels_of(row)) == 2


@pytest.mark.parametrize(("order", "known"), [([1, 2, 0], True), ([2, 0, 1], True), ([0, 2, 1], False)])
def test_axes_in_another_order(tmp_path, order, known):
    type = pa.fixed_shape_tensor(pa.uint8(), RGB.transpose(2, 0, 1).shape, permutation=order)
    tensors = pa.ExtensionArray.from_storage(type, pa.array([RGB.transpose(2, 0, 1).ravel()], type.storage_type))
    if known:
        assert (pixels_of(write(tmp_path, image=tensors)[0])[0] == RGB).all()
    else:
        with pytest.raises(UsageError, match="an image is"):
            write(tmp_path, image=tensors)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), -1.0), "holds values from -1 to -1; pixels are from 0 to 255"),
        (np.full((4, 4, 3), np.nan), "holds values from nan to nan"),
        (np.full((4, 4, 3), 256, np.int32), "holds values from 256 to 256"),
        (np.zeros((4, 0, 3), np.uint8), "without pixels"),
    ],
)
def test_numbers_that_are_no_pixels(tmp_path, array, message):
    [row] = write(tmp_path, image=ray_tensors([array]))
    assert row.reject and message in row.reject.message


def test_a_process_that_does_not_know_the_types_reads_them_by_name(tmp_path):
    """As a report does, which imports no Ray: then only the field's metadata says what it is."""
    for name in ("arrow_tensor", "arrow_tensor_v2"):
        metadata = {"ARROW:extension:name": f"other.{name}", "ARROW:extension:metadata": "[40, 60, 3]"}
        metadata["ARROW:extension:name"] = f"ray.data.{name}"
        field = pa.field("image", pa.list_(pa.uint8()), metadata=metadata)
        from adafv.pipeline.sources.image_values import image_reader

        reader = image_reader(field)
        assert reader is not None
        [data] = reader(pa.array([RGB.ravel()], pa.list_(pa.uint8())))
        assert (np.asarray(Image.open(io.BytesIO(data))) == RGB).all()


def test_many_images_of_a_row_are_refused_at_once(tmp_path):
    [row] = write(tmp_path, image=pa.array([["a.jpg"] * 1025]))
    assert row.reject and "a row may have 1024 images" in row.reject.message


def test_a_url_is_an_image_and_other_structs_say_what_they_hold(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "image": {"url": "https://x.org/a.jpg"}, "question": "w"}\n'
                                      '{"id": 2, "image": {"file": "a.jpg"}, "question": "w"}')  # fmt: skip
    good, bad = rows_of(tmp_path / "x.jsonl")
    assert good.images[0].uri == "https://x.org/a.jpg"
    assert bad.reject and "a struct of file; it must have bytes, path or url" in bad.reject.message


# What no row can be made of is said before anything runs.

HOPELESS: dict[str, tuple[str, pa.Array, str]] = {
    "id: binary": ("id", pa.array([b"x"]), "of type binary; an id is a text, a whole number or a UUID"),
    "id: flag": ("id", pa.array([True]), "of type bool; an id is"),
    "id: time": ("id", pa.array([1], pa.timestamp("ns", "Foo/Bar")), "of type timestamp[ns, tz=Foo/Bar]"),
    "id: list": ("id", pa.array([["x"]]), "of type list"),
    "id: nulls": ("id", pa.nulls(1), "nothing but nulls"),
    "question: flag": ("question", pa.array([True]), "of type bool; a prompt is made of texts and numbers"),
    "question: date": ("question", pa.array([1], pa.date32()), "of type date32[day]; a prompt"),
    "question: duration": ("question", pa.array([1], pa.duration("s")), "of type duration[s]; a prompt"),
    "question: struct": ("question", pa.array([{"a": 1}]), "of type struct<a: int64>; a prompt"),
    "question: numbers": ("question", pa.array([[1.0]]), "of type list"),
    "question: nulls": ("question", pa.nulls(1), "nothing but nulls"),
    "image: integer": ("image", pa.array([1]), "of type int64; an image is encoded (binary, or a list of uint8)"),
    "image: floats": ("image", pa.array([[0.5]]), "of type list"),
    "image: map": ("image", pa.array([[("bytes", b"x")]], pa.map_(pa.string(), pa.binary())), "of type map"),
    "image: struct": ("image", pa.array([{"data": b"x"}]), "of type struct<data: binary>"),
    "image: nulls": ("image", pa.nulls(1), "nothing but nulls"),
    "image: tensor": ("image", pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 5, 5, 2))), "shape_tensor"),
    "image: uuid": ("image", pa.array([b"x" * 16], pa.uuid()), "uuid"),
    "image: rows of pixels": ("image", pa.array([[[[1]]]]), "of type list"),
    "image: rows of grey": ("image", pa.array([[[0.5]]]), "of type list"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOPELESS)
def test_types_of_which_no_row_can_be_made(tmp_path, name):
    column, values, message = HOPELESS[name]
    with pytest.raises(UsageError, match=r"x\.parquet: column") as raised:
        write(tmp_path, **{column: values})
    assert message in str(raised.value)


def test_a_column_of_nulls_in_one_of_several_files(tmp_path):
    """What pandas writes of a part without values: the other parts have them."""
    write(tmp_path, image=["a.jpg"])
    pq.write_table(pa.table({"id": ["y"], "image": pa.nulls(1), "question": ["w"]}), tmp_path / "y.parquet")
    good, bad = rows_of(tmp_path)
    assert good.reject is None and bad.reject and bad.reject.error == "image_missing"


def test_a_column_that_is_only_copied_or_compared_may_hold_nothing(tmp_path):
    [row] = write(tmp_path, replace(COLUMNS, carried=("other",), where="other is None"), other=pa.nulls(1))
    assert row.reject is None and row.carried == (None,)


def test_conversations_of_any_type(tmp_path):
    turn = pa.struct({"from": pa.string(), "value": pa.large_string(), "more": pa.duration("ns")})
    said = [[{"from": "human", "value": "w"}, None], None, [{"from": "human", "value": "w"}]]
    rows = write(tmp_path, TALK, conversations=pa.array(said, pa.large_list(turn)), image=pa.nulls(3))
    assert [row.reject and row.reject.error for row in rows] == ["bad_row", "bad_row", None]
    for type, value in (
        (pa.string(), "[]"),
        (pa.list_(pa.string()), ["a"]),
        (pa.list_(pa.struct({"role": pa.string()})), []),
    ):
        with pytest.raises(UsageError, match=r'a conversation is a list of \{"from", "value"\}'):
            write(tmp_path, TALK, conversations=pa.array([value], type))


@pytest.mark.parametrize(
    "given",
    [
        {"video": pa.array(["a.mp4"])},
        {"videos": pa.array([["a.mp4"]])},
        {"video": pa.array([{"path": "a.mp4"}])},
        {"conversations": pa.array([[{"from": "human", "value": "<video> w"}]])},
    ],
)
def test_a_video_is_not_passed_over(tmp_path, given):
    said = {"conversations": pa.array([[{"from": "human", "value": "w"}]]), "image": pa.nulls(1, pa.string())}
    [row] = write(tmp_path, TALK, **(said | given))
    assert row.reject and row.reject.error == "bad_row" and "about a video" in row.reject.message
    [row] = write(tmp_path, TALK, **said, video=pa.array([""]))
    assert row.reject is None


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("column", ["id", "image", "question", "conversations"])
@pytest.mark.parametrize("deep", [False, True])
def test_pickles_are_never_opened(tmp_path, column, deep):
    """Ray Data has a type for Python objects, whose values unpickle themselves when they are asked for."""
    pytest.importorskip("ray.data")
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    trap = tmp_path / "sprung"
    storage = pa.array([pickle.dumps(Trap(trap))], pa.large_binary())
    values: pa.Array = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), storage)
    values = pa.ListArray.from_arrays([0, 1], values) if deep else values
    with pytest.raises(UsageError, match="of type"):
        write(tmp_path, TALK if column == "conversations" else COLUMNS, **{column: values})
    write(tmp_path, other=values)
    inside = pa.MapArray.from_arrays([0, 1], pa.array(["key"]), pa.StructArray.from_arrays([values], ["object"]))
    write(tmp_path, replace(COLUMNS, carried=("other",), where="other is not None"), other=inside)
    assert not trap.exists()


def test_lists_structs_and_maps_are_carried_with_their_values(tmp_path):
    """Whatever their types: UUIDs and short floats inside them are read as in a column of their own."""
    columns = replace(COLUMNS, carried=("a", "b", "c"))
    inner = pa.StructArray.from_arrays([pa.array([UUIDS[0].bytes], pa.uuid()), pa.array(["x"])], ["id", "text"])
    tenth = pa.array([0.1], pa.float32())
    [row] = write(tmp_path, columns, a=pa.ListArray.from_arrays([0, 1], inner), b=tenth,
                  c=pa.MapArray.from_arrays([0, 1], pa.array(["key"]).dictionary_encode(), tenth))  # fmt: skip
    assert row.carried == (f'[{{"id": "{UUIDS[0]}", "text": "x"}}]', "0.1", '[["key", 0.1]]')


# Names.


def test_a_column_that_stands_twice(tmp_path):
    table = pa.table([["r"], ["a"], ["b"], ["c"], ["d"]], names=["id", "image", "question", "question", "x"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="2 columns of the name 'question'"):
        rows_of(tmp_path / "x.parquet")
    pq.write_table(table.rename_columns(["id", "image", "question", "x", "x"]), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet")[0].prompt == "b"


def test_names_that_are_not_utf8(tmp_path):
    table = pa.table({"id": ["r"], "image": ["a"], "question": ["b"], "otheQ": ["c"]})
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes().replace(b"otheQ", b"othe\xff"))
    with pytest.raises(UsageError, match="isn't UTF-8; rename it"):
        rows_of(tmp_path / "x.parquet")


def test_odd_names(tmp_path):
    """Empty ones, and such as look like a path into a struct."""
    columns = replace(COLUMNS, id="", image="a.bytes", question="a", prompt="{a}", prompt_columns=("a",))
    table = pa.table([["r"], [JPEG], ["w"], [{"bytes": b"x"}]], names=["", "a.bytes", "a", "a.b"])
    pq.write_table(table, tmp_path / "x.parquet")
    [row] = rows_of(tmp_path / "x.parquet", columns)
    assert (row.id, row.prompt, row.images[0].data) == ("r", "w", JPEG)


@pytest.mark.parametrize("metadata", ["[1", "5", "{}", '["x"]', ""])
def test_an_extension_type_that_says_nonsense(tmp_path, metadata):
    """Its own code reads it when the file is opened, and raises what it likes."""
    pytest.importorskip("ray.data")
    known = {"ARROW:extension:name": "ray.data.arrow_tensor", "ARROW:extension:metadata": metadata}
    fields = [pa.field("id", pa.string()), pa.field("image", pa.list_(pa.uint8()), metadata=known)]
    fields.append(pa.field("question", pa.string()))
    table = pa.table(
        [pa.array(["r"]), pa.array([[1]], pa.list_(pa.uint8())), pa.array(["w"])], schema=pa.schema(fields)
    )
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"x\.parquet: (its schema can't be read|column 'image' is of type)"):
        rows_of(tmp_path / "x.parquet")


def test_a_uri_that_python_cannot_parse_is_a_row_like_any_other(tmp_path):
    """The fetch stage refuses it; an exception here would end the run."""
    (tmp_path / "x.jsonl").write_text('{"id": 1, "image": "file://[/a.jpg", "question": "w"}')
    [row] = rows_of(tmp_path / "x.jsonl")
    assert row.reject is None and [(image.uri, image.place) for image in row.images] == [("file://[/a.jpg", "/a.jpg")]


def test_text_that_is_not_utf8(tmp_path):
    broken = pa.array([b"w\xc3", b"w"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    bad, good = write(tmp_path, question=text)
    assert bad.reject and "holds text that isn't UTF-8" in bad.reject.message and good.prompt == "w"
    bad, good = write(tmp_path, id=text)
    assert bad.reject and bad.reject.error == "missing_id" and good.id == "w"


def test_dates_that_python_does_not_have(tmp_path):
    """They say what they are, and are no text with damage."""
    dates = pa.array([2**30, 0], pa.int32()).cast(pa.date32())
    bad, good = write(tmp_path, replace(COLUMNS, carried=("day",)), day=dates)
    assert good.carried == ("1970-01-01",)
    assert bad.reject and bad.reject.message == "column 'day' holds a date32[day] that Python doesn't have"


def test_a_question_column_alone_says_what_to_give(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "image": "a", "problem": "w"}')
    with pytest.raises(UsageError, match=r"give --prompt '\{problem\}'"):
        rows_of(tmp_path / "x.jsonl", replace(COLUMNS, question="problem"))


def test_the_kind_of_a_row(tmp_path):
    """By which thresholds may differ; the prompt needn't name it."""
    columns = replace(COLUMNS, stratum="kind")
    for values in (["count", "sign", None], [3, 4, None], [2.0, 3.5, None]):
        kinds = [
            None if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values
        ]
        assert [row.stratum for row in write(tmp_path, columns, kind=values)] == kinds
        assert {row.stratum for row in write(tmp_path, kind=values)} == {None}
    for value in (["a"], {"a": 1}, True):
        record = Record("x#0", "/", {"id": "a", "image": "a.jpg", "question": "?", "kind": value})
        row = row_of(record, columns)
        assert row.stratum is None and row.reject is None, "a row of an odd kind goes by the common threshold"


def test_a_column_of_kinds_that_there_is_not(tmp_path):
    with pytest.raises(UsageError, match=r"--thresholds names column 'kind', which .* doesn't have"):
        write(tmp_path, replace(COLUMNS, stratum="kind"), id=["a"])
