"""When a request is made again, how long is waited before, and what is raised at last."""

from __future__ import annotations

import itertools

import pytest

from adafv.pipeline.store import retry as module
from adafv.pipeline.store.retry import is_passing, pause, retry


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Seconds that were slept, on a clock that only sleeping moves."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    monkeypatch.setattr(module.random, "uniform", lambda *_: 1.0)
    return slept


def failing(times: float):
    """Raises so many times, then returns how often it was called."""
    calls = itertools.count(1)

    def request() -> int:
        if (call := next(calls)) <= times:
            raise OSError(call)
        return call

    return request


def test_pauses_double_up_to_a_limit(slept):
    assert retry(failing(8), lambda error: 0.0) == 9
    assert slept == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_the_other_side_may_ask_for_longer(slept):
    told: list[Exception] = []
    assert retry(failing(3), lambda error: 3.0, on_retry=told.append) == 4
    assert slept == [3, 3, 3] and [error.args for error in told] == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("limits", "waited"), [({"attempts": 3}, [0.5, 1]), ({"seconds": 4.0}, [0.5, 1, 2]), ({"seconds": 0.0}, [])]
)
def test_the_last_failure_is_raised(slept, limits, waited):
    with pytest.raises(OSError) as caught:
        retry(failing(100), lambda error: 0.0, **limits)
    assert slept == waited and caught.value.args == (len(waited) + 1,)


def test_what_stays_is_not_asked_for_again(slept):
    with pytest.raises(OSError) as caught:
        retry(failing(100), lambda error: None if error.args == (2,) else 0.0)
    assert slept == [0.5] and caught.value.args == (2,)


def test_a_fleet_does_not_return_in_step():
    assert len({pause(1, 0.5) for _ in range(20)}) > 10 and all(0.25 <= pause(1, 0.5) <= 0.75 for _ in range(20))


def test_statuses_that_pass():
    assert [status for status in (200, 302, 403, 404, 408, 425, 429, 500, 503) if is_passing(status)] == [
        408, 425, 429, 500, 503,
    ]  # fmt: skip
