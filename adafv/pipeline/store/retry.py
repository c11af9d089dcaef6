"""Retries: the one place where a job waits for another server."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds
LONGEST_RETRY_AFTER = 30.0  # seconds
PASSING = (408, 425, 429)  # HTTP statuses that may pass, besides those from 500 on
T = TypeVar("T")


class UnavailableError(OSError):
    """A server, or the network, fails in a way that may pass."""


def retry(
    request: Callable[[], T],
    delay: Callable[[Exception], float | None],
    *,
    attempts: float = math.inf,
    seconds: float = math.inf,
    first: float = FIRST_PAUSE,
    on_retry: Callable[[Exception], object] | None = None,
) -> T:
    """The result of `request`; its last exception is raised as it is.

    Args:
        delay: for an exception, the seconds to wait at least, 0 if unknown; None if a retry is no use.
        attempts: the most attempts; `seconds`: none begins later than that after the first.
        first: the first pause, in seconds.
        on_retry: called with each failure that is retried.
    """
    end = time.monotonic() + seconds
    for attempt in itertools.count(1):
        try:
            return request()
        except Exception as error:  # `delay` decides which may pass
            least = delay(error)
            if least is None or attempt >= attempts:
                raise
            wait = max(pause(attempt, first), least)
            if time.monotonic() + wait > end:
                raise
            if on_retry is not None:
                on_retry(error)
        time.sleep(wait)
    raise AssertionError("unreachable")


def pause(attempt: int, first: float) -> float:
    """Seconds to wait after the failure of `attempt` (1, 2, …): doubled each time, with jitter so that workers don't
    retry in step."""
    return min(LONGEST_PAUSE, first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that an answer's `Retry-After` asks for, up to a limit; 0 if it doesn't."""
    text = headers.get("retry-after") or ""
    return min(float(text), LONGEST_RETRY_AFTER) if text.isdecimal() else 0.0


def is_passing(status: int) -> bool:
    """Whether an HTTP status may pass."""
    return status in PASSING or status >= 500
