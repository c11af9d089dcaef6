"""What came out of the suite, as the table in docs/measurements/models.md.

python -m tests.models.conformance.matrix     runs the suite and writes the table
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[3] / "docs" / "measurements" / "models.md"
_BEGIN, _END = "<!-- matrix: python -m tests.models.conformance.matrix -->", "<!-- end of matrix -->"
PASSED, FAILED = "✓", "✗"


class Collector:
    """Which test came out how, by variant and column."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}

    @staticmethod
    def column(item: Any) -> str:
        """A test's column: the first line of its docstring, up to the colon."""
        return (item.function.__doc__ or "").partition(":")[0]

    def note(self, item: Any, report: Any) -> None:
        """Note one phase of a test. A cell of several tests passes if all of them do."""
        if "column" not in item.fixturenames:
            return
        cell = item.callspec.params["subject"].name, self.column(item)
        if report.failed:
            self._cells[cell] = FAILED
        elif report.skipped:
            self._cells[cell] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call":
            self._cells.setdefault(cell, PASSED)

    def is_whole(self, variants: list[str], columns: list[str]) -> bool:
        return self._cells.keys() == {(variant, column) for variant in variants for column in columns}

    def table(self) -> str:
        """Markdown: the variants by what they didn't pass. Reasons stand below as notes."""
        variants = list(dict.fromkeys(variant for variant, _ in self._cells))
        columns = list(dict.fromkeys(column for _, column in self._cells))
        reasons = list(dict.fromkeys(cell for cell in self._cells.values() if cell not in (PASSED, FAILED)))
        marks = {cell: f"n/a ({number})" for number, cell in enumerate(reasons, 1)}
        groups: dict[str, list[str]] = {}
        for variant in variants:
            cells = {column: self._cells.get((variant, column), FAILED) for column in columns}
            but = "; ".join(f"{column}: {marks.get(cell, cell)}" for column, cell in cells.items() if cell != PASSED)
            groups.setdefault(f"all but {but}" if but else "all", []).append(variant)
        lines = [f"- **{passed}**: {'; '.join(names)}" for passed, names in groups.items()]
        notes = [f"({i}) {reason}" for i, reason in enumerate(reasons, 1)]
        return "\n".join([*lines, *(["", *notes] if notes else [])])


RESULTS = Collector()


def documented() -> str:
    """The table as the docs have it."""
    return DOCS.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0].strip()


def _write() -> int:
    import pytest

    status = pytest.main(["-q", "--deselect", f"{_SUITE}::test_the_docs_have_the_matrix", _SUITE])
    # The hooks noted in the module that conftest imported, which isn't this one when it is run as a program.
    from tests.models.conformance.matrix import RESULTS

    before, _, rest = DOCS.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    DOCS.write_text(f"{before}{_BEGIN}\n\n{RESULTS.table()}\n\n{_END}{after}", encoding="utf-8")
    return int(status)


_SUITE = "tests/models/conformance/test_conformance.py"

if __name__ == "__main__":
    sys.exit(_write())
