"""How options are declared: a dataclass's field with what a command line says of it, and the error for a wrong value.

`EngineOptions` and `JobOptions` are made of these. The command line, `--config`, the recipe and the run's record follow
from their fields, so that an option is written down once. Options travel to where torch and Ray aren't.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, field
from typing import Any


class OptionError(ValueError):
    """An option's value is wrong.

    Attributes:
        name: the field's name; `value`: what it is; `demand`: what it must be, in words.
    """

    def __init__(self, name: str, value: object, demand: str) -> None:
        super().__init__(name, value, demand)
        self.name, self.value, self.demand = name, value, demand

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}; it must be {self.demand}"


def option(
    group: str,
    help: str,
    default: Any = MISSING,
    *,
    type: Any = str,
    metavar: str | None = None,
    after: str | None = None,
    formerly: Any = None,
) -> Any:
    """A field that is an option.

    Args:
        group: the heading of `--help` that it stands under; `after`: the option that it follows there, where that is
            another class's.
        help, metavar: its line there; `type`: what turns an argument into its value.
        formerly: the value that held before there was the option, for recipes that don't name it.
    """
    metadata = {"group": group, "help": help, "type": type, "metavar": metavar, "after": after, "formerly": formerly}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def require(holds: bool, name: str, value: object, demand: str) -> None:
    """Raises OptionError unless it `holds` that the option `name` has a `value` as `demand` says."""
    if not holds:
        raise OptionError(name, value, demand)


def require_one_of(name: str, value: str, known: Collection[str]) -> None:
    """Raises OptionError unless `value` is one of those `known`."""
    require(value in known, name, value, f"one of {', '.join(known)}")
