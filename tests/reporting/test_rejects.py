"""Some rejects of every error, the same each time."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from adafv.pipeline.schema import REJECTS
from adafv.reporting.rejects import RejectExamples
from adafv.reporting.top_rows import SHOWN
from tests.reporting.outputs import reject


def examples(rows: list[dict], size: int = 7) -> list[dict]:
    found = RejectExamples()
    for start in range(0, len(rows), size):
        found.add(pa.RecordBatch.from_pylist(rows[start : start + size], schema=REJECTS))
    return found.rows()


def test_the_commonest_error_leaves_room_for_the_others():
    rows = [reject(f"c{n}", "image_corrupt") for n in range(500)] + [reject("e", "image_empty")]
    rows += [reject(f"n{n}", "image_not_found") for n in range(3)] + [reject(None, "missing_id")]
    found = Counter(row["error"] for row in examples(rows))
    assert found == {"image_corrupt": SHOWN - 5, "image_empty": 1, "image_not_found": 3, "missing_id": 1}


def test_they_are_the_same_in_another_order():
    rows = [reject(f"{n}", "image_corrupt", image=f"{n}") for n in range(300)]
    assert examples(rows) == examples(rows[::-1], size=31)


def test_there_may_be_none():
    assert examples([]) == []
