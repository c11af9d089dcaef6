"""Extra label columns: input columns carried over as text, and the properties of JSON answers with their types.

A name that labels already use gets the prefix `input_` or `answer_`. A property without a single Arrow type is JSON in
a text column.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from adafv.pipeline.schema import DUPLICATE

_PLAIN = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_DEEPEST = 8  # nesting; deeper values are text
_PROPERTY = b"property"  # of a field's metadata


def added_in(columns: pa.Schema) -> pa.Schema:
    """The columns of a file that its job's options added: carried-over input, properties of its answers, and which
    labels are reused."""
    return pa.schema([one for one in columns if one.name == DUPLICATE.name or _PROPERTY in (one.metadata or {})])


def fields_of(schema: str | None, taken: Collection[str]) -> tuple[pa.Field, ...]:
    """The columns for a JSON schema's properties; none if the schema isn't for an object.

    Args:
        taken: names of the other columns.
    """
    whole = json.loads(schema) if schema is not None else None
    types = {name: _type(part, whole, _DEEPEST) for name, part in _properties(whole, whole).items()}
    return _fields(types, "answer_", taken)


def carried_fields(names: Sequence[str], taken: Collection[str]) -> tuple[pa.Field, ...]:
    """The columns for carried-over input, in order; `taken` as for `fields_of`."""
    return _fields(dict.fromkeys(names, pa.string()), "input_", taken)


def _fields(types: Mapping[str, pa.DataType], prefix: str, taken: Collection[str]) -> tuple[pa.Field, ...]:
    columns: dict[str, pa.Field] = {}
    for name, type in types.items():
        column = name
        while column in taken or column in columns or not column:
            column = prefix + column
        columns[column] = pa.field(column, type, metadata={_PROPERTY: name.encode("utf-8", "surrogatepass")})
    return tuple(columns.values())


def values_of(answer: str, fields: Sequence[pa.Field]) -> dict[str, Any]:
    """The columns of an answer that matches the schema. An integer beyond 64 bits is null, and so are all columns of an
    answer that is no object, where the schema allows such."""
    said = json.loads(answer) if fields else None
    if not isinstance(said, dict):
        return {field.name: None for field in fields}
    return {
        field.name: _value(said.get(field.metadata[_PROPERTY].decode("utf-8", "surrogatepass")), field.type)
        for field in fields
    }


def _properties(part: Any, whole: Any) -> dict[str, Any]:
    resolved = _resolved(part, whole)
    found = resolved.get("properties") if isinstance(resolved, dict) else None
    return found if isinstance(found, dict) else {}


def _resolved(part: Any, whole: Any) -> Any:
    """A part of a schema, with `$ref` resolved."""
    for _ in range(_DEEPEST):
        reference = part.get("$ref") if isinstance(part, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        part = whole
        for name in reference.removeprefix("#").split("/")[1:]:
            part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    return part


def _type(part: Any, whole: Any, depth: int) -> pa.DataType:
    part = _resolved(part, whole)
    if not isinstance(part, dict) or not depth:
        return pa.string()
    for name in ("anyOf", "oneOf"):
        if name in part:
            types = {_type(one, whole, depth - 1) for one in part[name] if one != {"type": "null"}}
            return types.pop() if len(types) == 1 else pa.string()
    if "enum" in part or "const" in part:
        return _common(part["enum"] if "enum" in part else [part["const"]])
    kind = part.get("type")
    kinds = [one for one in (kind if isinstance(kind, list) else [kind]) if one != "null"]
    if len(kinds) != 1:
        return pa.string()
    if kinds[0] == "array" and "items" in part:
        return pa.list_(_type(part["items"], whole, depth - 1))
    if kinds[0] == "object" and _properties(part, whole):
        return pa.struct([(name, _type(one, whole, depth - 1)) for name, one in _properties(part, whole).items()])
    return _PLAIN.get(str(kinds[0]), pa.string())


def _common(values: Sequence[Any]) -> pa.DataType:
    """The type of a set of constants."""
    kinds = {type(value) for value in values if value is not None}
    for known, column in ((({bool}), pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64())):
        if kinds and kinds <= known:
            return column
    return pa.string()


def _value(value: Any, type: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_list(type):
        return [_value(one, type.value_type) for one in value] if isinstance(value, list) else None
    if pa.types.is_struct(type):
        return (
            {field.name: _value(value.get(field.name), field.type) for field in type}
            if isinstance(value, dict)
            else None
        )
    if pa.types.is_int64(type):
        return int(value) if -(2**63) <= value < 2**63 else None
    if pa.types.is_float64(type):
        return _float(value)
    if pa.types.is_boolean(type):
        return value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except OverflowError:  # an integer with hundreds of digits
        return None
