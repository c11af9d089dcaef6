"""The table that a benchmark prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Columns = Mapping[str, str] | Sequence[tuple[str, str]]


def table(columns: Columns, rows: Iterable[Sequence[object]]) -> str:
    """A line of the columns' names, and a line for each row.

    Args:
        columns: by name the format of a number, as `format` takes it: its width first, after a `<` for text that stands
            on the left. A text goes into any column.
    """
    named = list(columns.items() if isinstance(columns, Mapping) else columns)
    texts = [[cell if isinstance(cell, str) else format(cell, kind.lstrip("<"))
              for cell, (_, kind) in zip(row, named, strict=True)] for row in rows]  # fmt: skip
    sides = [kind.partition(".")[0].rstrip(",") for _, kind in named]
    lines = [[name for name, _ in named], *texts]
    return "\n".join(
        "".join(
            f"{text:{side if side.startswith('<') else '>' + side}}" for text, side in zip(line, sides, strict=True)
        )
        for line in lines
    )
