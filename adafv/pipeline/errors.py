"""The two ways in which a job as a whole can fail; what is wrong with one row is a `Reject` instead."""

from __future__ import annotations


class UsageError(Exception):
    """The command can't be carried out as given (exit status 2). The message says what to change."""


class RunError(Exception):
    """The run began and could not be finished (exit status 1). Running the same command again resumes it."""
