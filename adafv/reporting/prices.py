"""What an hour of a run's workers cost: the price that the user gives, else the run's own, else a table's price
(`adafv.pipeline.record.prices`) for what its workers ran on. An unknown price is never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adafv.pipeline.record.prices import Price, entry_for
from adafv.reporting.runs import DeviceUse, RecordedRun


@dataclass(frozen=True)
class Rate:
    """USD per hour of a run's worker; or None, and why."""

    usd_per_hour: float | None
    why: str = ""


def price_of(run: RecordedRun, given: float | None, table: Sequence[Price]) -> Rate:
    """USD per hour of one of the run's workers, the mean over its devices."""
    if given is not None:
        return Rate(given)
    if run.price is not None:
        return Rate(run.price)
    if not table:
        return Rate(None)
    if not run.devices:
        return Rate(None, "the run's record doesn't say what its workers ran on")
    rates = [(_rate(device, run, table), device.workers) for device in run.devices]
    usd = 0.0
    for rate, workers in rates:
        if rate.usd_per_hour is None:
            return rate
        usd += rate.usd_per_hour * workers
    return Rate(usd / sum(workers for _, workers in rates))


def _rate(device: DeviceUse, run: RecordedRun, table: Sequence[Price]) -> Rate:
    """For workers on one device: by the instance, else by your own machines' entry for the device."""
    found = entry_for(table, device.name, device.instance)
    if found is not None and found.instance is not None and run.on == "cpu":
        return Rate(
            None,
            f"{device.workers} workers shared CPUs of {found.instance}, {found.usd_per_hour:g} USD an hour; the "
            "record doesn't say which part each had",
        )
    if found is not None and found.device == device.name and found.of_a_worker is not None:
        return Rate(found.of_a_worker * run.gpus)
    alike = [price for price in table if price.device == device.name]
    if device.instance is not None or not alike:
        return Rate(None, f"the table has no price for {device}")
    candidates = ", ".join(f"{price.instance} {price.of_a_worker:g}" for price in alike)
    return Rate(
        None,
        f"the record doesn't say which machine had the {device}; the table has, in USD per GPU: {candidates}",
    )
