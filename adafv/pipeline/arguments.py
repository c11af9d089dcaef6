"""A job's options from the command line, on top of the YAML file that `--config` names."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from adafv.pipeline.config import config_arguments
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import GROUPS, JobOptions, option_fields, option_string

# How help texts name the commands; see `as_called`.
_EXAMPLE = re.compile(r"^    adafv (label|calibrate|report|export|bench)\b", re.MULTILINE)
_MENTION = re.compile(r"\badafv (label|calibrate|report|export|bench)\b")


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str], decided: Collection[str] = ()
) -> dict[str, Any]:
    """The values of a command line by name, on top of its `--config` file.

    Args:
        decided: options that the command sets itself, and so ignores in the file.
    """
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    known, _ = config.parse_known_args(arguments)
    under = config_arguments(Path(known.config), _named(arguments), decided) if known.config else []
    values = vars(parser.parse_args([*under, *arguments]))
    del values["config"]
    if not values["input"] or not values["output"]:
        raise UsageError("--input and --output are needed: on the command line or in the --config file")
    return values


def job_options(values: Mapping[str, Any]) -> JobOptions:
    """The job's options among a command line's values."""
    return JobOptions.of(**{name: values[name] for name in option_fields() if name in values})


def _named(arguments: Sequence[str]) -> set[str]:
    """The names of the options given on the command line."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    return {flag.removeprefix("--").replace("-", "_") for flag in flags}


def make_parser(description: str, epilog: str, without: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parser for a job's options, except those in `without`."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="YAML file with these options",
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for name, item in option_fields().items():
        if name not in without:
            add_option(groups[item.metadata["group"]], item)
    return parser


def add_option(parser: argparse._ActionsContainer, item: Field[Any], shown: str = "(default: {})") -> None:
    """Add the option of a field (`option_fields`). `shown` formats the default in its help."""
    parser.add_argument(option_string(item.name), **_argument(item, shown))


def new_file(text: str) -> Path:
    """A file to write at the end: check now that its folder exists and is writable."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"the folder {path.parent} can't be written to")
    return path


def _argument(item: Field[Any], shown: str) -> dict[str, Any]:
    kind, default = item.metadata["type"], None if item.default is MISSING else item.default
    text = item.metadata["help"].replace("%", "%%")
    if item.name == "input":
        return {"nargs": "+", "action": "extend", "metavar": item.metadata["metavar"], "help": text}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": default, "help": text}
    text += "" if default is None or "default" in text else " " + shown.format(default)
    return {"type": kind, "default": default, "metavar": item.metadata["metavar"], "help": text}


def parse_strategies(text: str, also: Sequence[str] = ()) -> list[str]:
    """Strategy names, comma-separated or `all`, in the registry's order and without `none`, which is always there.

    Args:
        also: further names to accept.
    """
    from adafv.pruning import STRATEGIES  # here: it imports torch

    known = [*STRATEGIES, *also]
    names = known if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--strategies names {', '.join(map(repr, unknown))}; there are {', '.join(known)}, and 'all'")
    return [name for name in known if name in names and name != "none"]


def parse_keeps(text: str) -> list[float]:
    """Keep ratios, comma-separated, each once."""
    try:
        keeps = [float(part) for part in text.split(",")]
    except ValueError:
        keeps = [0.0]
    if not all(0 < keep <= 1 for keep in keeps):
        raise UsageError(f"--keep is {text!r}; it must be fractions above 0 and at most 1, such as 0.5,0.25,0.1,0.05")
    return list(dict.fromkeys(keeps))


def as_called(text: str | None, prog: str) -> str:
    """`text`, which names commands as `adafv label`; for the scripts of jobs/ it says `python jobs/label.py` in
    examples and `jobs/label.py` elsewhere.

    Args:
        prog: the program that runs: "adafv label", or "label.py".
    """
    if prog.startswith("adafv "):
        return text or ""
    return _MENTION.sub(r"jobs/\1.py", _EXAMPLE.sub(r"    python jobs/\1.py", text or ""))
