"""The command line that labels the whole input as a calibration recommends."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from adafv.pipeline.options import JobOptions, option_fields, option_string
from adafv.pipeline.redaction import redact

PASSED_OVER = ("input", "output", "strategy", "keep", "sample", "sample_adjacent", "retry_rejects")


def command_line(job: JobOptions) -> str:
    """The command for `job` on all rows, without secrets in URIs."""
    parts = [*_program(), "--input", *map(redact, job.input), "--output", redact(job.output)]
    parts += ["--strategy", job.engine.strategy]
    parts += [] if "keep" in job.engine.idle else ["--keep", str(job.engine.keep)]
    for name, value in job.values().items():
        if name not in PASSED_OVER and value != option_fields()[name].default:
            parts += _argument(name, value)
    return shlex.join(parts)


def _program() -> list[str]:
    """What labels in the current folder: a checkout's script, or the installed command."""
    return ["python", "jobs/label.py"] if Path("jobs/label.py").is_file() else ["adafv", "label"]


def _argument(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option_string(name) if value else option_string(f"no_{name}")]
    text = redact(_text(value))
    return [f"{option_string(name)}={text}"] if text.startswith("-") else [option_string(name), text]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def is_whole(job: JobOptions) -> bool:
    """Whether the command line leaves out no secret."""
    texts = [*job.input, *map(_text, job.values().values())]
    return all(redact(text) == text for text in texts)
