"""Columns of what answers in JSON hold."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from adafv.pipeline.fields import fields_of, values_of
from adafv.pipeline.schema import RESULTS

ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "number": {"type": "integer"}}}
TYPES = {
    "string": ({"type": "string"}, pa.string(), "é", "é"),
    "integer": ({"type": "integer"}, pa.int64(), 3, 3),
    "too large": ({"type": "integer"}, pa.int64(), 2**63, None),
    "number": ({"type": "number"}, pa.float64(), 3, 3.0),
    "far too large": ({"type": "number"}, pa.float64(), 10**400, None),
    "boolean": ({"type": "boolean"}, pa.bool_(), False, False),
    "null": ({"type": "null"}, pa.string(), None, None),
    "nullable": ({"type": ["integer", "null"]}, pa.int64(), None, None),
    "optional, as Pydantic has it": ({"anyOf": [{"type": "number"}, {"type": "null"}]}, pa.float64(), 0.5, 0.5),
    "texts": ({"enum": ["a", "b", None]}, pa.string(), "a", "a"),
    "numbers": ({"enum": [1, 2.5]}, pa.float64(), 1, 1.0),
    "whole numbers": ({"enum": [1, 2]}, pa.int64(), 2, 2),
    "truths": ({"const": True}, pa.bool_(), True, True),
    "constants of several types": ({"enum": [1, "b"]}, pa.string(), 1, "1"),
    "list": ({"type": "array", "items": {"type": "integer"}}, pa.list_(pa.int64()), [1, 2], [1, 2]),
    "list of anything": ({"type": "array"}, pa.string(), [1, "é"], '[1, "é"]'),
    "reference": ({"$ref": "#/$defs/address"}, pa.struct([("street", pa.string()), ("number", pa.int64())]),
                  {"street": "a"}, {"street": "a", "number": None}),
    "object": ({"type": "object"}, pa.string(), {"a": 1}, '{"a": 1}'),
    "either": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, pa.string(), 5, "5"),
    "recursive": ({"$ref": "#/$defs/tree"}, None, {"left": {"left": None}}, None),
    "left out": ({"type": "integer"}, pa.int64(), ..., None),
}  # fmt: skip
TREE = {"type": "object", "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}}


@pytest.mark.parametrize("name", TYPES)
def test_types(name):
    part, type, said, value = TYPES[name]
    schema = {"type": "object", "properties": {"x": part}, "$defs": {"address": ADDRESS, "tree": TREE}}
    [field] = fields = fields_of(json.dumps(schema), RESULTS.names)
    assert field.name == "x" and (type is None or field.type == type)
    found = values_of(json.dumps({} if said is ... else {"x": said}), fields)
    table = pa.Table.from_pylist([found], schema=pa.schema(fields))
    assert name == "recursive" or table.to_pylist() == [{"x": value}]


@pytest.mark.parametrize("kind", [{"type": ["object", "null"]}, {}])
def test_an_answer_need_not_be_an_object(kind):
    fields = fields_of(json.dumps(kind | {"properties": {"x": {"type": "integer"}}}), RESULTS.names)
    assert [values_of(answer, fields) for answer in ("null", "[1]", '{"x": 1}')] == [{"x": None}, {"x": None}, {"x": 1}]


def test_names_that_labels_have_are_told_apart():
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in ("id", "answer_id", "", "colour")}}
    fields = fields_of(json.dumps(schema), RESULTS.names)
    assert [field.name for field in fields] == ["answer_id", "answer_answer_id", "answer_", "colour"]
    assert values_of('{"id": 1, "answer_id": 2, "": 3}', fields) == {
        "answer_id": 1, "answer_answer_id": 2, "answer_": 3, "colour": None,
    }  # fmt: skip


@pytest.mark.parametrize("schema", [None, '{"type": "string"}', '{"type": "array", "items": {"type": "integer"}}'])
def test_what_is_no_object_has_none(schema):
    assert fields_of(schema, RESULTS.names) == () and values_of("[1]", ()) == {}
