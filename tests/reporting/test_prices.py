"""Whose price counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from adafv.pipeline.record.prices import read_prices
from adafv.pipeline.store.output import LocalOutput
from adafv.reporting.prices import Rate, price_of
from adafv.reporting.report import make_report, summary
from adafv.reporting.runs import read_runs
from tests.pipeline.record.test_prices import TABLE
from tests.reporting.outputs import label, run, write


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
        ([], "cuda", "record doesn't say what its workers ran on"),
        ([on("A", None, 2), on("Z")], "cuda", "no price for Z"),
        ([on("B", "huge")], "cuda", r"no price for B \(huge\)"),
        ([on("B slice", "small")], "cuda", r"no price for B slice \(small\)"),  # the machine's price is of a whole one
        ([on("B")], "cuda", "the record doesn't say which machine had the B; .* per GPU: small 3, large 2.5"),
        ([on("C")], "cuda", "the record doesn't say which machine had the C"),
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
    busy = [run(name, devices=[on(device)], worker_seconds=1.0) for name, device in (("r1", "B"), ("r2", "A"))]
    uri = write(tmp_path / "out", [], busy)
    text = summary(make_report(uri, prices=read_prices(path)))
    assert "for the workers of r1\n" in text and "small 3, large 2.5" in text
    text = summary(make_report(uri))
    assert "--prices such as cluster/prices.yaml, for the workers of r1, r2\n" in text


def test_a_run_with_prices_by_device_has_their_mean_over_its_time(tmp_path):
    """What it recorded counts, not what a table says now."""
    (tmp_path / "prices.yaml").write_text(TABLE)
    uri = write(tmp_path / "out", [], [run(devices=[on("A")], usd=0.5, worker_seconds=900.0)])
    [read] = read_runs(LocalOutput(uri))
    assert price_of(read, None, read_prices(tmp_path / "prices.yaml")) == Rate(2.0)


def test_a_run_that_held_no_worker_needs_no_price(tmp_path):
    """Such as the same command once more, under another name or the same, when all is done; or one killed at once."""
    idle = [run("r2", 900), run("r3", 1800, status="running"), run("r1", 2700)]
    busy = run("r1", devices=[on("A")], usd=0.5, worker_seconds=900.0, earlier=[])
    runs = [idle[2] | {"earlier": [busy]}, *idle[:2]]
    cost = make_report(write(tmp_path / "out", [label("a", 450.0)], runs)).cost
    assert cost is not None and (cost.attributed, cost.true, cost.exact) == (0.25, 0.5, False)


def test_labels_of_a_run_without_a_record_have_no_known_cost(tmp_path):
    report = make_report(write(tmp_path / "out", [label("a", run="lost")], [run(price=1.0, worker_seconds=9.0)]), 2.0)
    assert report.cost is None and report.unpriced == {"lost": "runs/ has no record of it"}
