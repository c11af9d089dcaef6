"""What a table of prices must be, and what it says of a worker."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import PRICE_KINDS
from adafv.pipeline.record.prices import Tariff, read_prices

SHIPPED = Path(__file__).parents[3] / "cluster/prices.yaml"
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


@pytest.mark.parametrize(
    ("device", "instance", "usd"),
    [
        ("A", None, 1.5),
        ("A", "elsewhere", 1.5),
        ("A", "cpus", 1.5),  # the table has the machine, but what a worker's share of it costs only you know
        ("A", "small", 1.5),
        ("B", "small", 3.0),
        ("B", "large", 2.5),
        ("B", None, None),
        ("EPYC", "small", None),  # a CPU worker on a machine with a GPU
        ("EPYC", "cpus", None),
        (None, None, None),
    ],
)
def test_each_worker_has_the_price_of_what_it_runs_on(tmp_path, device, instance, usd):
    (tmp_path / "prices.yaml").write_text(TABLE)
    table = tuple(read_prices(tmp_path / "prices.yaml"))
    assert Tariff(table=table).of(device, instance) == usd
    assert Tariff(table=table, gpus=4).of(device, instance) == (usd and 4 * usd)
    assert Tariff(2.0, gpus=4).of(device, instance) == 8


def test_the_mean_of_workers_on_several_devices(tmp_path):
    (tmp_path / "prices.yaml").write_text(TABLE)
    tariff = Tariff(table=tuple(read_prices(tmp_path / "prices.yaml")))
    assert tariff.mean([("A", None, 1), ("B", "small", 2)]) == (1.5 + 2 * 3.0) / 3
    assert tariff.mean([("A", None, 1), ("D", None, 1)]) is None, "it isn't known, rather than less"
    assert Tariff(2.0, gpus=4).mean([("D", None, 3)]) == 8 and tariff.mean([]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "can't be read"),
        ("a: 1", "must be a list"),
        ("- {device: A}", "must have the keys date, device, source, usd_per_hour; or"),
        ("- 3", "must have the keys"),
        (f"- {{device: A, usd: 3, {FROM}}}", "must have the keys"),
        (f"- {{device: A, instance: b, usd_per_hour: 3, {FROM}}}", "must have the keys"),
        (f"- {{device: A, usd_per_hour: x, {FROM}}}", "no valid price"),
        (f"- {{device: A, usd_per_hour: -1, {FROM}}}", "no valid price"),
        (f"- {{device: A, usd_per_hour: .nan, {FROM}}}", "no valid price"),
        ("- {device: A, usd_per_hour: 1, date: June, source: s}", "no date such as"),
        (machine("x", 1, "A", 0), "0 GPUs"),
        (machine("x", 1, kind="cheap"), "of kind 'cheap'; it must be on-demand or spot"),
        (f"{OURS}\n{OURS}", "it lists A twice"),
        ("\n".join([machine("x", 1), machine("x", 2)]), "it lists x twice"),
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
    table = read_prices(SHIPPED, kind=None)
    by_kind = {kind: {price.instance: price for price in table if price.kind == kind} for kind in PRICE_KINDS}
    assert len(table) == sum(map(len, by_kind.values())), "only machines of one cloud"
    for price in table:
        assert price.usd_per_hour > 0 and price.source.startswith("https://") and price.region == "us-east-1"
        assert date(2026, 1, 1) <= price.date <= date.today()
    for instance, spot in by_kind["spot"].items():
        other = by_kind["on-demand"][instance]
        assert spot.usd_per_hour <= other.usd_per_hour
        assert (spot.device, spot.count) == (other.device, other.count)
    assert {"g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge", "p5en.48xlarge"} <= by_kind["on-demand"].keys()
