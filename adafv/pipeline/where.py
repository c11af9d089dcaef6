"""`--where`: which rows are labelled, as an expression over their columns, such as `width >= 512 and split != 'test'`.

The grammar is a small part of Python's: `and`, `or`, `not`, comparisons, `in`, `is None`, names, texts, numbers and
lists of these. Anything else is refused before it is evaluated, so an expression can't do more than compare. Nothing
that is compared with a missing value holds, but `is None`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from datetime import date, time
from functools import lru_cache
from types import CodeType
from typing import Any

DEMAND = (
    "an expression of column names, texts, numbers, lists, comparisons, in, is None, and, or and not, such as "
    "\"width >= 512 and license in ['cc0', 'cc-by']\"; other names of columns stand in backquotes"
)
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop),
    *(ast.Name, ast.Load, ast.List, ast.Tuple, ast.Constant),
)
_VALUES = (str, int, float, type(None))
_NONE = "_none"


class _Missing:
    """Stands for None: no comparison with it holds."""

    def _no(self, other: object) -> bool:
        return False

    def __bool__(self) -> bool:
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _no


MISSING = _Missing()


class _Nones(ast.NodeTransformer):
    """Puts `MISSING` in the place of each None."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return node if node.value is not None else ast.copy_location(ast.Name(_NONE, ast.Load()), node)


@lru_cache(maxsize=8)
def parse_where(text: str) -> tuple[CodeType, dict[str, str]]:
    """What an expression is when it is compiled, and its columns, by the names that they have in there.

    Raises ValueError where it is none.
    """
    quoted: dict[str, str] = {}
    plain = re.sub(r"`([^`]+)`", lambda match: quoted.setdefault(match[1], f"_column{len(quoted)}"), text)
    try:
        tree = ast.parse(plain.strip(), mode="eval")
        nodes = list(ast.walk(tree))
        constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
        if not all(isinstance(node, _ALLOWED) for node in nodes) or not all(isinstance(c, _VALUES) for c in constants):
            raise ValueError(DEMAND)
        code = compile(_Nones().visit(tree), "--where", "eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(DEMAND) from error
    names = {name: column for column, name in quoted.items()}
    columns = {node.id: names.get(node.id, node.id) for node in nodes if isinstance(node, ast.Name)}
    if not columns:
        raise ValueError(DEMAND)
    return code, columns


def columns_where(text: str | None) -> tuple[str, ...]:
    """The columns that an expression names."""
    return () if text is None else tuple(dict.fromkeys(parse_where(text)[1].values()))


def holds(text: str, values: Mapping[str, Any]) -> bool:
    """Whether the expression holds for a row. Dates and times are texts, such as 2026-11-29.

    Raises TypeError where it compares what can't be compared, such as a text with a number.
    """
    code, columns = parse_where(text)
    named = {name: _plain(values.get(column)) for name, column in columns.items()}
    return bool(eval(code, {"__builtins__": {}, _NONE: MISSING}, named))


def _plain(value: Any) -> Any:
    if isinstance(value, date | time):
        return value.isoformat()
    return MISSING if value is None or value != value else value
