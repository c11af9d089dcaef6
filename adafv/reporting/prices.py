"""What an hour of a run's workers cost.

A price that the user gives counts for all runs; else that which a run was given; else that which a table
(`adafv.pipeline.record.prices`) has for what its workers ran on. A price that is not known is asked for, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adafv.pipeline.record.prices import Price, entry_for
from adafv.reporting.runs import DeviceUse, RecordedRun


@dataclass(frozen=True)
class Rate:
    """USD for an hour of one of a run's workers; or None, and why."""

    usd_per_hour: float | None
    why: str = ""


def price_of(run: RecordedRun, given: float | None, table: Sequence[Price]) -> Rate:
    """USD for an hour of one of the run's workers. Of several devices, their mean."""
    if given is not None:
        return Rate(given)
    if run.price is not None:
        return Rate(run.price)
    if not table:
        return Rate(None)
    if not run.devices:
        return Rate(None, "it isn't on record what its workers ran on")
    rates = [(_rate(device, run, table), device.workers) for device in run.devices]
    usd = 0.0
    for rate, workers in rates:
        if rate.usd_per_hour is None:
            return rate
        usd += rate.usd_per_hour * workers
    return Rate(usd / sum(workers for _, workers in rates))


def _rate(device: DeviceUse, run: RecordedRun, table: Sequence[Price]) -> Rate:
    """Of workers on one device: by the instance, else by the entry that one's own machines have for the device."""
    found = entry_for(table, device.name, device.instance)
    if found is not None and found.instance is not None and run.on == "cpu":
        return Rate(
            None,
            f"{device.workers} workers shared CPUs of {found.instance}, {found.usd_per_hour:g} USD an hour; which "
            "part each had isn't on record",
        )
    if found is not None and found.of_a_worker is not None:
        return Rate(found.of_a_worker * run.gpus)
    alike = [price for price in table if price.device == device.name]
    if device.instance is not None or not alike:
        return Rate(None, f"the table has no price of {device}")
    candidates = ", ".join(f"{price.instance} {price.of_a_worker:g}" for price in alike)
    return Rate(
        None,
        f"which machine the {device} was in isn't on record; the table has, in USD for each GPU: {candidates}",
    )
