"""The command `adafv`, with a module for each of its commands: label, calibrate, report, export, bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from adafv import __version__

DESCRIPTION = "`adafv`: label image data sets with vision-language models whose visual tokens are pruned."
COMMANDS = {
    "label": "label a data set of images and questions, or plan what that takes and costs",
    "calibrate": "find the keep ratio that is safe on your data, before you label all of it",
    "report": "what a labelling job cost, where the time went, which answers deserve a look",
    "export": "write labels as JSON lines, COCO captions, LLaVA's format or Label Studio's tasks",
    "bench": "measure this machine, in a checkout of the repository",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names with the others; its exit status. Only that command is imported."""
    given = sys.argv[1:] if arguments is None else arguments
    name = _parser().parse_args(given[:1]).command
    return import_module(f"adafv.commands.{name}").main(given[1:], prog=f"adafv {name}")


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
