"""What an hour of a worker costs.

A price that the user gives counts for all runs; else that which a run was given; else that which a table has for what
the run's workers ran on. A price that isn't known is asked for, never guessed.

A table is YAML:

    - device: NVIDIA A10G     # as a run's record has it under hardware, devices
      usd_per_hour: 1.006     # of one GPU, or of one CPU worker
      date: 2026-06-17        # when that was so, and where it says so
      source: https://...
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
from adafv.reporting.runs import Run


@dataclass(frozen=True)
class Price:
    """An hour of a worker on `device`, in USD, and where that is from."""

    device: str
    usd_per_hour: float
    date: date
    source: str


def read_prices(path: Path) -> list[Price]:
    """The table at `path`.

    Raises:
        UsageError: it can't be read, or an entry isn't one.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--prices {path} can't be read: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"--prices {path}: it must be a list of entries with device, usd_per_hour, date and source")
    prices = [_price(path, entry) for entry in entries]
    if len({price.device for price in prices}) < len(prices):
        raise UsageError(f"--prices {path}: a device stands in it twice")
    return prices


def _price(path: Path, entry: Any) -> Price:
    try:
        price = Price(str(entry["device"]), float(entry["usd_per_hour"]), entry["date"], str(entry["source"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--prices {path}: {entry!r} lacks device, usd_per_hour, date or source") from error
    if not isinstance(price.date, date) or not math.isfinite(price.usd_per_hour) or price.usd_per_hour < 0:
        raise UsageError(f"--prices {path}: {entry!r} has no date such as 2026-06-17, or no price that can be one")
    return price


def price_of(run: Run, given: float | None, table: Sequence[Price]) -> float | None:
    """USD for an hour of one of the run's workers; None where nobody says. Of several devices, their mean."""
    if given is not None:
        return given
    if run.price is not None:
        return run.price
    known = {price.device: price.usd_per_hour for price in table}
    if not run.devices or not known.keys() >= run.devices.keys():
        return None
    return sum(known[device] * count for device, count in run.devices.items()) / sum(run.devices.values())
