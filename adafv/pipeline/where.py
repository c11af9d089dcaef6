"""`--where`: which rows to label, as an expression over their columns, such as `width >= 512 and split != 'test'`.

The grammar is a small part of Python's: `and`, `or`, `not`, comparisons, `in`, `is None`, names, texts, numbers and
lists. Anything else is refused before evaluation, so an expression can only compare. As in SQL, comparing with a
missing value is neither true nor false, and neither is `not` of it; `is None` tests for one.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from datetime import date, time
from functools import lru_cache
from typing import Any

DEMAND = (
    "an expression of column names, strings, numbers, lists, comparisons, in, is None, and, or and not, such as "
    "\"width >= 512 and license in ['cc0', 'cc-by']\"; put column names with other characters in backquotes"
)
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop),
    *(ast.Name, ast.Load, ast.List, ast.Tuple, ast.Constant),
)
_VALUES = (str, int, float, type(None))
_ORDER = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt}
_ORDER[ast.GtE] = operator.ge
_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]+)`""")  # a text, or a column's name in backquotes


@lru_cache(maxsize=8)
def parse_where(text: str) -> tuple[ast.expr, dict[str, str]]:
    """The expression, and its columns by the names they have in it. Raises ValueError if it can't be parsed."""
    quoted: dict[str, str] = {}
    plain = _QUOTED.sub(lambda found: found[1] or quoted.setdefault(found[2], f"_column{len(quoted)}"), text)
    try:
        tree = ast.parse(plain.strip(), mode="eval")
        nodes = list(ast.walk(tree))
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ValueError(DEMAND) from error
    names = {name: column for column, name in quoted.items()}
    columns = {node.id: names.get(node.id, node.id) for node in nodes if isinstance(node, ast.Name)}
    if not columns or not all(isinstance(node, _ALLOWED) and _is_plain(node) for node in nodes):
        raise ValueError(DEMAND)
    return tree.body, columns


def _is_plain(node: ast.AST) -> bool:
    """Whether a constant is of a type that rows have, and `is` compares with None."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, _VALUES)
    if isinstance(node, ast.Compare) and any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
        return (
            len(node.ops) == 1 and isinstance(node.comparators[0], ast.Constant) and node.comparators[0].value is None
        )
    return True


def columns_where(text: str | None) -> tuple[str, ...]:
    """The columns that an expression names."""
    return () if text is None else tuple(dict.fromkeys(parse_where(text)[1].values()))


def holds(text: str, values: Mapping[str, Any]) -> bool:
    """Whether the expression holds for a row. Dates and times are texts such as 2026-11-29. Raises TypeError for values
    that can't be compared, such as a text with a number."""
    tree, columns = parse_where(text)
    return bool(_truth(tree, {name: _plain(values.get(column)) for name, column in columns.items()}))


def _truth(node: ast.expr, row: Mapping[str, Any]) -> bool | None:
    """True, False, or None if it depends on a missing value."""
    if isinstance(node, ast.BoolOp):
        decisive = isinstance(node.op, ast.Or)
        found = [_truth(each, row) for each in node.values]
        return decisive if decisive in found else None if None in found else not decisive
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found_one = _truth(node.operand, row)
        return None if found_one is None else not found_one
    if isinstance(node, ast.Compare):
        values = [_value(each, row) for each in (node.left, *node.comparators)]
        pairs = [_compared(*each) for each in zip(node.ops, values, values[1:], strict=False)]
        return False if False in pairs else None if None in pairs else True
    value = _value(node, row)
    return None if value is None else bool(value)


def _value(node: ast.expr, row: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return row[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each, row) for each in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, row)
        return None if value is None else -value
    return _truth(node, row)


def _compared(how: ast.cmpop, left: Any, right: Any) -> bool | None:
    if isinstance(how, ast.Is | ast.IsNot):
        return (left is None) == isinstance(how, ast.Is)
    if left is None or right is None:
        return None
    if isinstance(how, ast.In | ast.NotIn):
        if isinstance(right, list) and right and all(_differ(left, each) for each in right):
            raise TypeError(f"{left!r} can't be compared with {right!r}")
        return (left in right) == isinstance(how, ast.In)
    if _differ(left, right):
        raise TypeError(f"{left!r} can't be compared with {right!r}")
    return bool(_ORDER[type(how)](left, right))


def _differ(left: Any, right: Any) -> bool:
    """Whether exactly one of the two is a text."""
    return isinstance(left, str) != isinstance(right, str)


def _plain(value: Any) -> Any:
    if isinstance(value, date | time):
        return value.isoformat()
    return None if value is None or value != value else value
