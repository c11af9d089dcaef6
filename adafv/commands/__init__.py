"""The command `adafv`, with a module for each of its commands: label, calibrate, report, export, bench.

failure: how a command that reads labels fails.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from adafv import __version__

DONE, FAILED, USAGE = 0, 1, 2  # exit status
DESCRIPTION = "`adafv`: label image data sets with vision-language models whose visual tokens are pruned."
COMMANDS = {
    "label": "label a data set of images and questions, or plan the run and its cost",
    "calibrate": "find the keep ratio that is safe on your data, before you label all of it",
    "report": "print what a job cost, where the time went, and which answers to check",
    "export": "write labels as JSON lines, captions beside images, COCO, LLaVA, Label Studio or to the Hub",
    "bench": "measure this machine (in a checkout of the repository)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; its exit status. Only that command is imported."""
    given = sys.argv[1:] if arguments is None else arguments
    name = _parser().parse_args(given[:1]).command
    return import_module(f"adafv.commands.{name}").main(given[1:], prog=f"adafv {name}")


def set_up_job() -> None:
    """Log progress, and let SIGTERM end a job as Ctrl-C does: it writes what is labelled first."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("adafv").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)


def price(text: str) -> float:
    """The type of an option in USD."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no price")
    return value


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="adafv", usage="%(prog)s [-h] [--version] COMMAND ...", description=DESCRIPTION,
        epilog="\n".join(["commands:", *(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
                          "\n`adafv COMMAND --help` has a command's options."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"adafv {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser
