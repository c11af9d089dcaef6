"""Options of benchmarks that a job has by the same names, checks and explains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adafv.pipeline.options import JobOptions

Figures = list[dict[str, Any]] | dict[str, Any]  # what a benchmark writes as JSON


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return value


def add_counts(parser: argparse._ActionsContainer, **options: tuple[int | None, str]) -> None:
    """Options that take a whole number above 0: the default of each, and its help."""
    for name, (default, text) in options.items():
        parser.add_argument(_option(name), type=positive, metavar="N", default=default, help=text)


def add_names(parser: argparse._ActionsContainer, **options: tuple[str | None, str]) -> None:
    """Options that take names or numbers, comma-separated, likewise."""
    for name, (default, text) in options.items():
        parser.add_argument(
            _option(name), metavar="NAMES", default=default, help=f"{text}, comma-separated (%(default)s)"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_job_options(parser: argparse._ActionsContainer, names: Sequence[str]) -> None:
    """The options of those names as a job has them."""
    from adafv.pipeline.arguments import add_option
    from adafv.pipeline.options import option_fields

    for name in names:
        add_option(parser, option_fields()[name], shown="({})")


def job_options(options: argparse.Namespace, input: tuple[str, ...], names: Sequence[str]) -> JobOptions:
    from adafv.pipeline.options import JobOptions

    return JobOptions.of(input=input, output="-", **{name: getattr(options, name) for name in names})
