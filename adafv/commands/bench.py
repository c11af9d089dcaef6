"""The benchmarks, which are in the repository only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from adafv.commands import USAGE


def main(arguments: Sequence[str] | None = None, prog: str = "bench.py") -> int:
    """Run one benchmark; the exit status."""
    if find_spec("adafv.bench") is None:
        print(
            f"{prog}: benchmarks come with the repository, not with the installed package; in a checkout run "
            "`python -m adafv bench`",
            file=sys.stderr,
        )
        return USAGE
    from adafv.bench import command

    return command.main(arguments, prog)
