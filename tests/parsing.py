"""A job's options from a command line, as `adafv label` reads them."""

from __future__ import annotations

from collections.abc import Sequence

from adafv.pipeline.arguments import job_options, make_parser, parse_arguments
from adafv.pipeline.options import JobOptions


def parse_options(arguments: Sequence[str], description: str = "", epilog: str = "") -> JobOptions:
    return job_options(parse_arguments(make_parser(description, epilog), arguments))
