"""How a command that reads labels fails: with one line, and an exit status."""

from __future__ import annotations

import sys

from adafv.commands import FAILED, USAGE
from adafv.pipeline.errors import UsageError
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.store.s3 import S3_ERRORS

FAILURES = (UsageError, OSError, *S3_ERRORS)


def failed(prog: str, error: Exception) -> int:
    """Print why, an error of `FAILURES`; the exit status."""
    print(f"{prog}: {said(error)}", file=sys.stderr)
    return USAGE if isinstance(error, UsageError) else FAILED


def said(error: Exception) -> str:
    """An error in words, without secrets."""
    return safe_message(str(error)) if isinstance(error, S3_ERRORS) else str(error)
