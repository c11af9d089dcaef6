"""What an hour of a worker costs: one price for all, or by device from a table (docs/report.md).

The table is a YAML list with two kinds of entries. One is the price of a cloud machine with a number of GPUs; a worker
has one GPU and pays its share. The price of a machine without GPUs can't be divided among CPU workers here. The other
is the price of a worker on a device of your own.
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

OF_A_WORKER = {"device", "usd_per_hour", "date", "source"}  # the keys for your own machines
OF_A_MACHINE = {"instance", "kind", "usd_per_hour", "region", "date", "source"}  # for a cloud machine; with GPUs:
OF_GPUS = {"device", "count"}


@dataclass(frozen=True)
class Price:
    """USD per hour of a worker on `device`, or of an `instance` with `count` such GPUs, and its source."""

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
        """None if workers share the instance's CPUs."""
        if self.instance is None:
            return self.usd_per_hour
        return self.usd_per_hour / self.count if self.count else None


@dataclass(frozen=True)
class Tariff:
    """What a run's workers cost.

    Attributes:
        flat: USD per hour of one GPU, or of one CPU worker, on any machine.
        table: prices by device and machine, if there is no flat one.
        gpus: per worker; 1 for a CPU worker.
    """

    flat: float | None = None
    table: tuple[Price, ...] = ()
    gpus: int = 1

    @property
    def is_given(self) -> bool:
        return self.flat is not None or bool(self.table)

    def of(self, device: str | None, instance: str | None) -> float | None:
        """USD per hour of a worker on `device` in an `instance`; None if unknown."""
        if self.flat is not None:
            return self.flat * self.gpus
        found = None if device is None else entry_for(self.table, device, instance)
        if found is None or found.of_a_worker is None or found.device != device:
            return None  # such as a CPU worker on a GPU machine
        return found.of_a_worker * self.gpus

    @property
    def least(self) -> float:
        """USD per hour of a worker whose device isn't known, at least."""
        if self.flat is not None:
            return self.flat * self.gpus
        known = [price.of_a_worker for price in self.table if price.of_a_worker is not None]
        return min(known, default=0.0) * self.gpus

    def mean(self, workers: Collection[tuple[str, str | None, int]]) -> float | None:
        """Mean USD per hour of the given (device, instance, number) workers; None if any price is unknown."""
        rates = [(self.of(device, instance), count) for device, instance, count in workers]
        known = [(rate, count) for rate, count in rates if rate is not None]
        if not known or len(known) < len(rates):
            return None
        return sum(rate * count for rate, count in known) / sum(count for _, count in known)


def recorded_price(cost: Mapping[str, Any]) -> float | None:
    """USD per hour of a worker from a run's record; with prices by device, the mean over its workers' time."""
    if cost["price_per_hour"] is None and cost.get("usd") is not None and cost["worker_seconds"]:
        return 3600 * cost["usd"] / cost["worker_seconds"]
    return cost["price_per_hour"]


def entry_for(table: Sequence[Price], device: str, instance: str | None) -> Price | None:
    """The machine's entry if it is for this device, else your own entry for the device, else the machine's."""
    machine = next((price for price in table if price.instance is not None and price.instance == instance), None)
    own = next((price for price in table if price.instance is None and price.device == device), None)
    return machine if machine is not None and machine.device == device else own or machine


def read_prices(path: Path, kind: str | None = "on-demand") -> list[Price]:
    """The table at `path`: cloud prices of one kind, and all prices of your own machines; None for the whole table.

    Raises:
        UsageError: it can't be read, or an entry is invalid.
    """
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
            raise UsageError(f"--prices {path}: it lists {key[0]} twice; give the prices of one region")
        seen.add(key)
    return [price for price in prices if kind is None or price.kind in (None, kind)]


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
        raise UsageError(f"--prices {path}: {entry!r} has no valid price") from error
    if not isinstance(price.date, date) or not math.isfinite(price.usd_per_hour) or price.usd_per_hour < 0:
        raise UsageError(f"--prices {path}: {entry!r} has no date such as 2026-06-17, or no valid price")
    if "instance" in keys and price.kind not in PRICE_KINDS:
        raise UsageError(f"--prices {path}: {entry!r} is of kind {price.kind!r}; it must be {' or '.join(PRICE_KINDS)}")
    if "count" in keys and (type(price.count) is not int or price.count < 1):
        raise UsageError(f"--prices {path}: {entry!r} has {price.count!r} GPUs; it must be a whole number from 1")
    return price


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys))
