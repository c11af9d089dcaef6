"""Whose price counts, and what a table of prices must be."""

from __future__ import annotations

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.folder import LocalOutput
from adafv.reporting.prices import price_of, read_prices
from adafv.reporting.runs import read_runs
from tests.reporting.outputs import run, write

TABLE = """
- {device: A, usd_per_hour: 1.5, date: 2026-06-17, source: "https://a"}
- {device: B, usd_per_hour: 3, date: 2026-06-17, source: "https://b"}
"""


@pytest.mark.parametrize(
    ("given", "own", "devices", "price"),
    [
        (7.0, 2.0, {"A": 1}, 7.0),
        (0.0, 2.0, {"A": 1}, 0.0),
        (None, 2.0, {"A": 1}, 2.0),
        (None, None, {"A": 1}, 1.5),
        (None, None, {"A": 2, "B": 1}, 2.0),
        (None, None, {"A": 2, "C": 1}, None),
        (None, None, {}, None),
    ],
)
def test_whose_price_counts(tmp_path, given, own, devices, price):
    table = tmp_path / "prices.yaml"
    table.write_text(TABLE)
    [read] = read_runs(LocalOutput(write(tmp_path / "out", [], [run(price=own, devices=devices)])))
    assert price_of(read, given, read_prices(table)) == price


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "can't be read"),
        ("a: 1", "must be a list"),
        ("- {device: A}", "lacks device, usd_per_hour, date or source"),
        ("- 3", "lacks device"),
        ("- {device: A, usd_per_hour: x, date: 2026-06-17, source: s}", "lacks device"),
        ("- {device: A, usd_per_hour: -1, date: 2026-06-17, source: s}", "no price that can be one"),
        ("- {device: A, usd_per_hour: .nan, date: 2026-06-17, source: s}", "no price that can be one"),
        ("- {device: A, usd_per_hour: 1, date: June, source: s}", "no date such as"),
        (TABLE + '- {device: A, usd_per_hour: 1, date: 2026-06-17, source: "s"}', "twice"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_prices(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_prices(tmp_path / "none.yaml")
