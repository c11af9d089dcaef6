"""Asking again for what failed in a way that may pass: the one place where a job waits for another server."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds
LONGEST_WISH = 30.0  # seconds of a `Retry-After` that are granted
PASSING = (408, 425, 429)  # HTTP statuses that may pass, besides those from 500 on
T = TypeVar("T")


class AwayError(OSError):
    """A server, or the network between, fails in a way that may pass."""


def retry(
    request: Callable[[], T],
    delay: Callable[[Exception], float | None],
    *,
    attempts: float = math.inf,
    seconds: float = math.inf,
    first: float = FIRST_PAUSE,
    on_retry: Callable[[Exception], object] | None = None,
) -> T:
    """What `request` returns. What it raises at last is raised as it is.

    Args:
        delay: of what it raised, how many seconds the other side wants to be left alone at least, 0 if it didn't say;
            None where there is no use in another attempt.
        attempts: at most so many are made, and none that would begin later than `seconds` after the first.
        first: the first pause, in seconds.
        on_retry: told of each failure that another attempt follows.
    """
    end = time.monotonic() + seconds
    for attempt in itertools.count(1):
        try:
            return request()
        except Exception as error:  # which of them may pass is for `delay` to know
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
    """Seconds to wait after the failure of `attempt` (1, 2, …): doubled each time, and jittered so that a fleet
    doesn't return in step."""
    return min(LONGEST_PAUSE, first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def wished_pause(headers: Mapping[str, str]) -> float:
    """The seconds that an answer's `Retry-After` asks for, within reason; 0 where it asks for none."""
    text = headers.get("retry-after") or ""
    return min(float(text), LONGEST_WISH) if text.isdecimal() else 0.0


def is_passing(status: int) -> bool:
    """Whether an HTTP status may be another in a moment."""
    return status in PASSING or status >= 500
