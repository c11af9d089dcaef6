"""Measure AdaFV Batch on this machine. Every figure in the documents comes from one of these commands.

    python jobs/bench.py ledger --ids 1000000 10000000     memory and time to plan a rerun
    python jobs/bench.py isolation --rounds 50             what working in child processes costs

Each makes the data that it needs, prints a table and the machine, and with --json writes both to a file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

try:
    import adafv  # noqa: F401
except ModuleNotFoundError:  # not installed: this file stands in a checkout
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adafv.bench.machine import this_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_ledger(commands)
    _add_isolation(commands)
    for command in commands.choices.values():
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    options = parser.parse_args(arguments)
    figures, text = options.run(options)
    machine = this_machine()
    print(f"{text}\n{machine}")
    if options.json:
        options.json.write_text(json.dumps({"machine": asdict(machine), options.command: figures}, indent=2) + "\n")
    return 0


def _add_ledger(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("ledger", help="memory and time to plan a rerun, by the number of ids")
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes to measure")
    parser.add_argument(
        "--folder", help="where the data is written and removed again; the system's for temporary files"
    )
    parser.set_defaults(run=_run_ledger)


def _run_ledger(options: argparse.Namespace) -> tuple[list[dict[str, float]], str]:
    from adafv.bench import ledger

    found = ledger.run(options.ids, options.folder)
    return [asdict(one) for one in found], ledger.table(found)


def _add_isolation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("isolation", help="what working in child processes costs")
    parser.add_argument("--rounds", type=int, default=50, help="how often each way is measured")
    parser.set_defaults(run=_run_isolation)


def _run_isolation(options: argparse.Namespace) -> tuple[list[dict[str, float]], str]:
    from adafv.bench import isolation

    found = isolation.run(options.rounds)
    return [asdict(one) for one in found], isolation.table(found)


if __name__ == "__main__":
    sys.exit(main())
