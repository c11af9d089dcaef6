"""What an hour of a worker costs: one price for all of them, or by what each runs on, from a table.

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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import PRICE_KINDS

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
class Tariff:
    """What a run's workers cost.

    Attributes:
        flat: USD for an hour of one GPU, or of one CPU worker, wherever it is.
        table: prices by device and machine, where there is no flat one.
        gpus: that a worker has; 1 for a CPU worker.
    """

    flat: float | None = None
    table: tuple[Price, ...] = ()
    gpus: int = 1

    @property
    def is_given(self) -> bool:
        return self.flat is not None or bool(self.table)

    def of(self, device: str | None, instance: str | None) -> float | None:
        """USD for an hour of a worker on `device` in a machine of the kind `instance`; None where it isn't known."""
        if self.flat is not None:
            return self.flat * self.gpus
        found = None if device is None else entry_for(self.table, device, instance)
        if found is None or found.of_a_worker is None or found.device != device:
            return None  # such as a CPU worker on a machine that is paid for its GPUs
        return found.of_a_worker * self.gpus

    def mean(self, workers: Collection[tuple[str, str | None, int]]) -> float | None:
        """USD for an hour of a worker, of so many each on a device in a machine; None where one's isn't known."""
        rates = [(self.of(device, instance), count) for device, instance, count in workers]
        known = [(rate, count) for rate, count in rates if rate is not None]
        if not known or len(known) < len(rates):
            return None
        return sum(rate * count for rate, count in known) / sum(count for _, count in known)


def recorded_price(cost: Mapping[str, Any]) -> float | None:
    """USD for an hour of a worker by a run's record; where prices were by device, the mean over its workers' time."""
    if cost["price_per_hour"] is None and cost.get("usd") is not None and cost["worker_seconds"]:
        return 3600 * cost["usd"] / cost["worker_seconds"]
    return cost["price_per_hour"]


def entry_for(table: Sequence[Price], device: str, instance: str | None) -> Price | None:
    """The entry for the machine, else that which one's own machines have for the device."""
    machines = (price for price in table if price.instance is not None and price.instance == instance)
    own = (price for price in table if price.instance is None and price.device == device)
    return next(machines, None) or next(own, None)


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
    if "instance" in keys and price.kind not in PRICE_KINDS:
        raise UsageError(f"--prices {path}: {entry!r} is of kind {price.kind!r}; it must be {' or '.join(PRICE_KINDS)}")
    if "count" in keys and (type(price.count) is not int or price.count < 1):
        raise UsageError(f"--prices {path}: {entry!r} has {price.count!r} GPUs; it must be a number from 1 on")
    return price


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys))
