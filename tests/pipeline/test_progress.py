"""The progress line: what it says of a job that runs well, slows down, stands still, or rejects."""

from __future__ import annotations

import logging
import time
from collections import Counter

import pytest

from adafv.pipeline.metrics import Metrics
from adafv.pipeline.outputs.folder import open_output
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.progress import Pace, Progress
from adafv.pipeline.storage import Storage


def test_the_pace_is_that_of_the_last_minutes():
    pace = Pace(0)
    for now in range(10, 3610, 10):
        pace.note(now, 20 * now, 10 * now)
    assert (pace.rows_per_second, pace.samples_per_second, pace.still) == (20, 10, 0)
    for now in range(3610, 3920, 10):  # half as fast
        pace.note(now, 72_000 + 10 * (now - 3600), 36_000)
    assert (pace.rows_per_second, pace.samples_per_second) == (10, 0)


def test_a_job_that_stands_still_has_no_pace():
    pace = Pace(0)
    for now in range(10, 500, 10):
        pace.note(now, min(now, 100), min(now, 100))
    assert pace.rows_per_second == 0 and pace.still == 390


def test_loading_the_model_is_no_part_of_the_pace():
    pace = Pace(0)
    for now in range(10, 130, 10):
        pace.note(now, 0, 0)
    assert pace.rows_per_second == 0 and pace.still == 120
    pace.note(130, 50, 40)
    assert (pace.rows_per_second, pace.samples_per_second, pace.still) == (5, 4, 0)


@pytest.fixture
def sink(tmp_path) -> Sink:
    return Sink(open_output(str(tmp_path / "out"), Storage()), "r")


def test_the_line(sink, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    watched = Progress(sink, Metrics("r", "none", 1000, 3.6), 1000, 3.6)
    now[0] += 10
    assert watched.line() == "0/1,000 rows (0%), 0.0 samples/s, unknown time left, $0.0000 so far"
    now[0] += 10
    sink.tally.labelled, sink.tally.workers = 80, {"w": 100.0, "v": 110.0}
    sink.tally.rejected = Counter(image_forbidden=15, image_empty=5)
    assert watched.line() == (
        "100/1,000 rows (10%), 8.0 samples/s, 0:01:30 left, 20 rejected (most: image_forbidden 15), $0.0300 so far"
    )
    now[0] += 90
    assert watched.line().startswith("100/1,000 rows (10%), 0.8 samples/s, 0:15:00 left, ")
    assert watched.line().endswith(" so far, no row for 0:01:30")


def test_a_run_that_fails_says_how_far_it_came(sink, caplog):
    caplog.set_level(logging.INFO, "adafv")
    with pytest.raises(OSError), Progress(sink, Metrics("r", "none", 10, None), 10, None):
        sink.tally.labelled = 4
        raise OSError
    assert "4/10 rows (40%)" in caplog.messages[-1]


def test_what_goes_wrong_in_the_thread_ends_the_run(sink, monkeypatch):
    monkeypatch.setattr(sink, "write_due", lambda: (_ for _ in ()).throw(OSError("disk full")))
    with (
        pytest.raises(OSError, match="disk full"),
        Progress(sink, Metrics("r", "none", 10, None), 10, None, every=0.01) as watched,
    ):
        while True:
            watched.check()
            time.sleep(0.01)
