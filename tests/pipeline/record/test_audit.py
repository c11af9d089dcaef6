"""What an audit makes of a run's labels."""

from __future__ import annotations

import pyarrow as pa
import pytest

from adafv.pipeline import schema
from adafv.pipeline.record.audit import Audit


def labels(*rows: tuple[str, str, str | None]) -> pa.Table:
    named = [dict(zip(("image", "answer", "audit_answer"), row, strict=True)) for row in rows]
    return pa.Table.from_pylist(named, schema=schema.LABELS)


def test_audited_rows_are_counted():
    audit = Audit()
    audit.add(labels(("a", "The red ball.", "red ball"), ("b", "blue", "red"), ("c", "blue", None)))
    audit.add(labels(("d", "blue", "blue")))
    found = audit.as_json()
    assert (audit.rows, audit.agreement) == (3, 2.0)
    assert found["rows"] == 3 and found["agreement"] == pytest.approx(2 / 3, abs=1e-6)
    assert 0 <= found["low"] < found["agreement"] < found["high"] <= 1 and found["measure"] == "normalised"


def test_captions_are_compared_by_their_words():
    audit = Audit("rouge-l")
    audit.add(labels(("a", "a red ball", "a blue ball")))
    assert audit.agreement == pytest.approx(2 / 3)


def test_rows_on_one_image_say_less_than_rows_on_many():
    few, many = Audit(), Audit()
    rows = [("yes", "yes")] * 36 + [("yes", "no")] * 4
    few.add(labels(*((str(n % 4), *row) for n, row in enumerate(rows))))
    many.add(labels(*((str(n), *row) for n, row in enumerate(rows))))
    one, other = few.as_json(), many.as_json()
    assert one["agreement"] == other["agreement"] == 0.9 and one["low"] < other["low"]


def test_rows_of_a_table_that_each_hold_the_same_image_are_on_one():
    named, held = Audit(), Audit()
    for n in range(40):
        row = labels((f"part.parquet#{n}", "yes", "yes" if n % 10 else "no")).to_pylist()
        held.add(pa.Table.from_pylist([row[0] | {"images": [{"key": f"k{n % 4}"}]}], schema=schema.LABELS))
        named.add(labels((str(n % 4), "yes", "yes" if n % 10 else "no")))
    assert held.as_json() == named.as_json()


def test_nothing_audited():
    audit = Audit()
    audit.add(labels(("a", "red", None)))
    assert audit.estimate() is None and audit.as_json() is None
