"""The two ways a whole job can fail. A single bad row is a `Reject` instead."""

from __future__ import annotations

from adafv.pipeline.redaction import redact


class JobError(Exception):
    """Base class; the message is redacted, since options and other errors may hold secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(JobError):
    """The command can't be carried out as given (exit status 2). The message says what to change."""


class RunError(JobError):
    """The run couldn't start or finish (exit status 1). Running the same command again resumes it."""
