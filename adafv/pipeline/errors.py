"""The two ways in which a job as a whole can fail; what is wrong with one row is a `Reject` instead."""

from __future__ import annotations

from adafv.pipeline.redaction import redact


class JobError(Exception):
    """Its message is without the secrets that options and other errors' messages may hold."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(JobError):
    """The command can't be carried out as given (exit status 2). The message says what to change."""


class RunError(JobError):
    """The run could not be begun or finished (exit status 1). Running the same command again resumes it."""
