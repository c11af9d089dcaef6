"""The command line that labels the whole input as a calibration recommends."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from adafv.pipeline.options import JobOptions, flag, option_fields
from adafv.pipeline.redaction import redact

PASSED_OVER = ("input", "output", "strategy", "keep", "sample", "sample_adjacent", "retry_rejects")


def command_line(job: JobOptions) -> str:
    """`job`, of which the sample's labels are made, but for all rows. Without secrets, which its URIs may hold."""
    parts = [*_program(), "--input", *map(redact, job.input), "--output", redact(job.output)]
    parts += ["--strategy", job.engine.strategy]
    parts += [] if "keep" in job.engine.idle else ["--keep", f"{job.engine.keep:g}"]
    for name, value in job.values().items():
        if name not in PASSED_OVER and value != option_fields()[name].default:
            parts += _argument(name, value)
    return shlex.join(parts)


def _program() -> list[str]:
    """What labels in the current folder: a checkout's script, or the installed command."""
    return ["python", "jobs/label.py"] if Path("jobs/label.py").is_file() else ["adafv", "label"]


def _argument(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no_{name}")]
    text = redact(json.dumps(value) if isinstance(value, tuple) else str(value))
    return [f"{flag(name)}={text}"] if text.startswith("-") else [flag(name), text]


def is_whole(job: JobOptions) -> bool:
    """Whether the command line says all there is to say, no secret left out."""
    texts = [*job.input, *(value for value in job.values().values() if isinstance(value, str))]
    return all(redact(text) == text for text in texts)
