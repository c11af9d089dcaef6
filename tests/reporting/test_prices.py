"""Whose price counts, and what a table of prices must be."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.folder import LocalOutput
from adafv.reporting.prices import KINDS, Rate, price_of, read_prices, read_table
from adafv.reporting.report import make_report, summary
from adafv.reporting.runs import read_runs
from tests.reporting.outputs import run, write

SHIPPED = Path(__file__).parents[2] / "cluster/prices.yaml"
FROM = 'date: 2026-06-17, source: "https://a"'
OURS = f"- {{device: A, usd_per_hour: 1.5, {FROM}}}"


def machine(instance: str, usd: float, device: str | None = None, count: int = 1, kind: str = "on-demand") -> str:
    gpus = f"device: {device}, count: {count}, " if device else ""
    return f"- {{instance: {instance}, {gpus}kind: {kind}, usd_per_hour: {usd}, region: r, {FROM}}}"


TABLE = "\n".join(
    [
        OURS,
        machine("small", 3, "B"),
        machine("large", 20, "B", 8),
        machine("small", 1, "B", kind="spot"),
        machine("only", 8, "C", 4),
        machine("cpus", 0.4),
    ]
)


def on(device: str, instance: str | None = None, workers: int = 1) -> dict:
    return {"device": device, "instance": instance, "workers": workers}


def rate(folder: Path, devices: list, given=None, own=None, kind="on-demand", where="cuda") -> Rate:
    folder.mkdir(exist_ok=True)
    table = folder / "prices.yaml"
    table.write_text(TABLE)
    uri = write(folder / "out", [], [run(price=own, devices=devices, on=where)])
    [read] = read_runs(LocalOutput(uri))
    return price_of(read, given, read_prices(table, kind))


@pytest.mark.parametrize(
    ("given", "own", "devices", "price"),
    [
        (7.0, 2.0, [on("A")], 7.0),
        (0.0, 2.0, [on("A")], 0.0),
        (None, 2.0, [on("A")], 2.0),
        (None, None, [on("A")], 1.5),
        (None, None, [on("B", "small")], 3.0),
        (None, None, [on("B", "large", 2)], 2.5),
        (None, None, [on("A", None, 2), on("B", "small")], 2.0),
        (None, None, [on("A", "elsewhere")], 1.5),
    ],
)
def test_whose_price_counts(tmp_path, given, own, devices, price):
    assert rate(tmp_path, devices, given, own) == Rate(price)


@pytest.mark.parametrize(
    ("devices", "where", "why"),
    [
        ([], "cuda", "isn't on record what its workers ran on"),
        ([on("A", None, 2), on("Z")], "cuda", "no price of Z"),
        ([on("B", "huge")], "cuda", r"no price of B \(huge\)"),
        ([on("B")], "cuda", "which machine the B was in isn't on record; .* for each GPU: small 3, large 2.5"),
        ([on("C")], "cuda", "which machine the C was in isn't on record"),
        ([on("EPYC", "cpus", 2)], "cpu", "2 workers shared CPUs of cpus, 0.4 USD an hour"),
    ],
)
def test_a_price_that_is_not_known_is_not_guessed(tmp_path, devices, where, why):
    found = rate(tmp_path, devices, where=where)
    assert found.usd_per_hour is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.why)


def test_spot_prices_are_others_and_not_all_are_there(tmp_path):
    assert rate(tmp_path / "s", [on("B", "small")], kind="spot") == Rate(1.0)
    assert rate(tmp_path / "a", [on("A")], kind="spot") == Rate(1.5), "one's own machines have one price"
    assert rate(tmp_path / "b", [on("B", "large")], kind="spot").usd_per_hour is None


def test_the_summary_says_why(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(TABLE)
    uri = write(tmp_path / "out", [], [run("r1", devices=[on("B")]), run("r2", 9, devices=[on("A")])])
    text = summary(make_report(uri, prices=read_prices(path)))
    assert "for the workers of r1\n" in text and "small 3, large 2.5" in text
    text = summary(make_report(uri))
    assert "--prices such as cluster/prices.yaml, for the workers of r1, r2\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "can't be read"),
        ("a: 1", "must be a list"),
        ("- {device: A}", "must have the keys date, device, source, usd_per_hour; or"),
        ("- 3", "must have the keys"),
        (f"- {{device: A, usd: 3, {FROM}}}", "must have the keys"),
        (f"- {{device: A, instance: b, usd_per_hour: 3, {FROM}}}", "must have the keys"),
        (f"- {{device: A, usd_per_hour: x, {FROM}}}", "no price that can be one"),
        (f"- {{device: A, usd_per_hour: -1, {FROM}}}", "no price that can be one"),
        (f"- {{device: A, usd_per_hour: .nan, {FROM}}}", "no price that can be one"),
        ("- {device: A, usd_per_hour: 1, date: June, source: s}", "no date such as"),
        (machine("x", 1, "A", 0), "0 GPUs"),
        (machine("x", 1, kind="cheap"), "of kind 'cheap'; it must be on-demand or spot"),
        (f"{OURS}\n{OURS}", "A stands in it twice"),
        ("\n".join([machine("x", 1), machine("x", 2)]), "x stands in it twice"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_prices(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_prices(tmp_path / "none.yaml")


def test_the_shipped_table():
    """Each price is dated, says where it is from, and a spot price is no more than the other."""
    table = read_table(SHIPPED)
    by_kind = {kind: {price.instance: price for price in table if price.kind == kind} for kind in KINDS}
    assert len(table) == sum(map(len, by_kind.values())), "only machines of one cloud"
    for price in table:
        assert price.usd_per_hour > 0 and price.source.startswith("https://") and price.region == "us-east-1"
        assert date(2026, 1, 1) <= price.date <= date.today()
    for instance, spot in by_kind["spot"].items():
        other = by_kind["on-demand"][instance]
        assert spot.usd_per_hour <= other.usd_per_hour
        assert (spot.device, spot.count) == (other.device, other.count)
    assert {"g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge", "p5en.48xlarge"} <= by_kind["on-demand"].keys()
