"""What rejects have in common."""

from __future__ import annotations

import pyarrow as pa

from adafv.pipeline.record import reasons
from adafv.pipeline.record.reasons import Reasons


def table(*rows: tuple[str, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": f"{i}", "image": "x", "error": error, "message": message} for i, (error, message) in enumerate(rows)]
    )


def test_messages_that_differ_in_names_only_are_one_reason():
    found = Reasons()
    found.add(table(*(("image_not_found", f"no file 'a {i}.jpg' in /data/{i}") for i in range(5))))
    found.add(table(("image_corrupt", "at byte 7"), ("image_corrupt", "at byte 8"), ("image_corrupt", "else")))
    assert list(found.lines()) == [
        "5 image_not_found, such as 0: no file 'a 0.jpg' in /data/0",
        "  --image-root is the base of relative paths",
        "2 image_corrupt, such as 0: at byte 7",
        "1 image_corrupt, such as 2: else",
    ]


def test_many_different_messages_take_little_memory(monkeypatch):
    monkeypatch.setattr(reasons, "MOST", 2)
    found = Reasons()
    found.add(table(*(("bad_row", "x" * i) for i in range(10))))
    assert [line.partition(",")[0] for line in found.lines()] == ["8 bad_row", "1 bad_row", "1 bad_row"]
