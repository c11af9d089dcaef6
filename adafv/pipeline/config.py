"""The YAML file that `--config` names: a job's options under their command-line names.

The file becomes arguments that precede those of the command line, so both get the same checks and the command line
wins.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import Field
from pathlib import Path
from typing import Any

import yaml

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import option_fields, option_string

NESTED = {"schema", "prompts"}  # otherwise files of their own
BUDGET = {"keep", "keep_tokens"}  # one on the command line overrides both


def config_arguments(path: Path, named: Collection[str], decided: Collection[str]) -> list[str]:
    """The YAML file as arguments.

    Args:
        named: options given on the command line, which override the file.
        decided: options to ignore.

    Raises:
        UsageError: the file can't be read, an option is unknown, or a value has the wrong type.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold option names and values, such as 'keep: 0.1'")
    known = option_fields()
    unknown = [str(name) for name in values if str(name).replace("-", "_") not in known]
    if unknown:
        names = ", ".join(name.replace("_", "-") for name in known)
        raise UsageError(f"--config {path} has unknown options: {', '.join(unknown)}; known ones are {names}")
    overridden = {*named, *decided, *(BUDGET if BUDGET & {*named} else ())}
    arguments: list[str] = []
    for name, value in values.items():
        item = known[str(name).replace("-", "_")]
        if item.name not in overridden and value is not None:
            arguments += _config_argument(item, value, path)
    return arguments


def _config_argument(item: Field[Any], value: Any, path: Path) -> list[str]:
    name = option_string(item.name)
    if item.metadata["type"] is bool and isinstance(value, bool):
        return [name if value else option_string(f"no_{item.name}")]
    if item.name == "input" and isinstance(value, list) and value:
        return [name, *(str(uri) for uri in value)]
    mapping = item.metadata["metavar"] == "JSON" and isinstance(value, dict)
    texts = item.metadata["several"] and isinstance(value, list) and all(isinstance(one, str) for one in value)
    nested = item.name in NESTED and isinstance(value, list | dict)
    if mapping or texts or nested:
        return [f"{name}={json.dumps(value)}"]
    if item.metadata["type"] is bool or isinstance(value, bool | list | dict):
        raise UsageError(f"--config {path}: {item.name.replace('_', '-')} is {value!r}, which has the wrong type")
    return [f"{name}={value}"]
