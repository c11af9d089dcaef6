"""What an hour of a worker costs.

A price that the user gives counts for all runs; else that which a run was given; else that which a table has for what
the run's workers ran on. A price that isn't known is asked for, never guessed.

A table is YAML, a list of two kinds of entries. One is what a cloud asks for a machine with so many GPUs of a kind; a
worker has one of them and pays its share. Without GPUs it is a machine of which CPU workers have shares that nobody has
on record: its price is for the user to divide.

    - instance: g5.12xlarge   # as in a run's record under hardware, devices
      device: NVIDIA A10G
      count: 4
      kind: on-demand         # or spot
      usd_per_hour: 5.672     # of the machine
      region: us-east-1
      date: 2026-11-21        # when that was looked up, and where
      source: https://...

The other is an hour of a worker on a device, wherever it stands:

    - device: NVIDIA RTX 6000 Ada Generation
      usd_per_hour: 0.35
      date: 2026-11-21
      source: our own machines, electricity and depreciation
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from adafv.pipeline.errors import UsageError
from adafv.reporting.runs import Device, Run

KINDS = ("on-demand", "spot")
OF_A_WORKER = {"device", "usd_per_hour", "date", "source"}  # the keys of an entry of one's own machines
OF_A_MACHINE = {"instance", "kind", "usd_per_hour", "region", "date", "source"}  # of a cloud's; with GPUs:
OF_GPUS = {"device", "count"}


@dataclass(frozen=True)
class Price:
    """An hour, in USD, of a worker on `device`, or of an `instance` with `count` such GPUs, and where that is from."""

    usd_per_hour: float
    date: date
    source: str
    device: str | None = None
    instance: str | None = None
    count: int = 0
    kind: str | None = None
    region: str | None = None

    @property
    def of_a_worker(self) -> float | None:
        """None where workers share the instance's CPUs."""
        if self.instance is None:
            return self.usd_per_hour
        return self.usd_per_hour / self.count if self.count else None


@dataclass(frozen=True)
class Rate:
    """USD for an hour of one of a run's workers; or None, and why."""

    usd_per_hour: float | None
    why: str = ""


def read_prices(path: Path, kind: str = "on-demand") -> list[Price]:
    """The table at `path`: a cloud's prices of one kind, and all of one's own machines.

    Raises:
        UsageError: it can't be read, or an entry isn't one.
    """
    return [price for price in read_table(path) if price.kind in (None, kind)]


def read_table(path: Path) -> list[Price]:
    """The table at `path`, whole. Errors as for `read_prices`."""
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--prices {path} can't be read: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"--prices {path}: it must be a list of entries with device, usd_per_hour, date and source")
    prices = [_price(path, entry) for entry in entries]
    seen = set()
    for price in prices:
        key = price.instance or price.device, price.kind
        if key in seen:
            raise UsageError(f"--prices {path}: {key[0]} stands in it twice; give the prices of one region")
        seen.add(key)
    return prices


def _price(path: Path, entry: Any) -> Price:
    keys = entry.keys() if isinstance(entry, dict) else set()
    if keys not in (OF_A_WORKER, OF_A_MACHINE, OF_A_MACHINE | OF_GPUS):
        raise UsageError(
            f"--prices {path}: {entry!r} must have the keys {_listed(OF_A_WORKER)}; or, for a cloud's machine, "
            f"{_listed(OF_A_MACHINE)}, and with GPUs {_listed(OF_GPUS)}"
        )
    try:
        texts = {name: str(entry[name]) for name in ("device", "instance", "kind", "region", "source") if name in entry}
        price = Price(**(entry | texts | {"usd_per_hour": float(entry["usd_per_hour"])}))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--prices {path}: {entry!r} has no price that can be one") from error
    if not isinstance(price.date, date) or not math.isfinite(price.usd_per_hour) or price.usd_per_hour < 0:
        raise UsageError(f"--prices {path}: {entry!r} has no date such as 2026-06-17, or no price that can be one")
    if "instance" in keys and price.kind not in KINDS:
        raise UsageError(f"--prices {path}: {entry!r} is of kind {price.kind!r}; it must be {' or '.join(KINDS)}")
    if "count" in keys and (type(price.count) is not int or price.count < 1):
        raise UsageError(f"--prices {path}: {entry!r} has {price.count!r} GPUs; it must be a number from 1 on")
    return price


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys))


def price_of(run: Run, given: float | None, table: Sequence[Price]) -> Rate:
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


def _rate(device: Device, run: Run, table: Sequence[Price]) -> Rate:
    """Of workers on one device: by the instance, else by the entry that one's own machines have for the device."""
    machines = [price for price in table if price.instance is not None and price.instance == device.instance]
    if machines and run.on == "cpu":
        [machine] = machines
        return Rate(
            None,
            f"{device.workers} workers shared CPUs of {machine.instance}, {machine.usd_per_hour:g} USD an hour; which "
            "part each had isn't on record",
        )
    alike = [price for price in table if price.device == device.name]
    own = [price for price in alike if price.instance is None]
    if found := machines or own:
        return Rate(found[0].of_a_worker)
    if device.instance is not None:
        return Rate(None, f"the table has no price of {device}")
    if not alike:
        return Rate(None, f"the table has no price of {device}")
    candidates = ", ".join(f"{price.instance} {price.of_a_worker:g}" for price in alike)
    return Rate(
        None,
        f"which machine the {device} was in isn't on record; the table has, in USD for each GPU: {candidates}",
    )
