"""The progress line: what it says of a job that runs well, slows down, stands still, or rejects."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import date

import pytest

from adafv.pipeline.control.roster import WorkerStatus
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.record.metrics import Metrics
from adafv.pipeline.record.prices import Price, Tariff
from adafv.pipeline.record.progress import Pace, Progress
from adafv.pipeline.record.tally import Device
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage


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


def progress(sink: Sink, metrics: Metrics, to_do: int, tariff: Tariff, roster: All, **given: float) -> Progress:
    return Progress(
        tally=sink.tally, write_due=sink.write_due, metrics=metrics, to_do=to_do, tariff=tariff, roster=roster, **given
    )


class All:
    """Stands for Ray's list of workers."""

    def __init__(self, *seen: WorkerStatus) -> None:
        self._seen = list(seen)

    def status(self) -> WorkerStatus:
        return self._seen.pop(0) if self._seen else WorkerStatus(frozenset(), 0, 0, 0)

    def waiting_message(self, seen: WorkerStatus, seconds: float) -> str:
        return f"waiting for {seen.wanted}"


@pytest.fixture
def sink(tmp_path) -> Sink:
    return Sink(open_output(str(tmp_path / "out"), Storage()), "r")


def test_the_line(sink, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    watched = progress(sink, Metrics("r", "none", 1000), 1000, Tariff(3.6), All())
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
    with pytest.raises(OSError), progress(sink, Metrics("r", "none", 10), 10, Tariff(), All()):
        sink.tally.labelled = 4
        raise OSError
    assert "4/10 rows (40%)" in caplog.messages[-1]


def test_what_goes_wrong_in_the_thread_ends_the_run(sink, monkeypatch):
    monkeypatch.setattr(sink, "write_due", lambda: (_ for _ in ()).throw(OSError("disk full")))
    with (
        pytest.raises(OSError, match="disk full"),
        progress(sink, Metrics("r", "none", 10), 10, Tariff(), All(), every=0.01) as watched,
    ):
        while True:
            watched.check()
            time.sleep(0.01)


def test_a_file_that_cannot_be_written_while_no_row_comes_is_told_at_once_and_lost_workers_end_to_cost(
    sink, monkeypatch, caplog
):
    """The run waits for workers then, and nothing asks for the error before the next row."""
    monkeypatch.setattr(sink, "write_due", lambda: (_ for _ in ()).throw(OSError("disk full")))
    sink.tally.workers, sink.tally.actors = {"w/7": time.time()}, {"w/7": "a"}
    there = WorkerStatus(frozenset({("a", 7)}), 1, 1, 0)
    roster, end = All(there, there), time.monotonic() + 5
    with progress(sink, Metrics("r", "none", 10), 10, Tariff(), roster, every=0.01) as watched:
        while not sink.tally.gone and time.monotonic() < end:
            time.sleep(0.01)
    assert sink.tally.gone.keys() == {"w/7"}
    said = [message for message in caplog.messages if "disk full" in message]
    assert said == ["OSError: disk full; the run ends as soon as a row comes"]
    with pytest.raises(OSError, match="disk full"):
        watched.check()


def test_lines_say_who_is_there(sink, caplog):
    """Nobody, then one of two, then both; and a device that the table has no price for, once."""
    caplog.set_level(logging.INFO, "adafv")
    sink.tally.workers, sink.tally.actors = {"w/7": time.time() - 60.0}, {"w/7": "a"}
    both = frozenset({("a", 7), ("b", 8)})
    roster = All(
        WorkerStatus(both - {("b", 8)}, 2, 2, 0), WorkerStatus(both, 2, 2, 0), WorkerStatus(frozenset(), 2, 0, 0)
    )
    tariff = Tariff(table=(Price(3.6, date(2026, 11, 22), "made up", "A10G"),))
    watched = progress(sink, Metrics("r", "none", 10), 10, tariff, roster)
    watched._check_workers()
    assert caplog.messages.pop().endswith("1 of 2 workers there, $0.0600 so far")
    sink.tally.devices = {"w/7": Device("A10G")}
    watched._check_workers()
    assert "workers there" not in caplog.messages[-1] and caplog.messages[-1].endswith("$0.0600 so far")
    watched._check_workers()
    assert caplog.messages[-1] == "waiting for 2" and sink.tally.gone.keys() == {"w/7"}
    sink.tally.devices["w/7"] = Device("T4", "g4dn.xlarge")
    watched._check_workers()
    watched._check_workers()
    said = [message for message in caplog.messages if "has no price for T4 (g4dn.xlarge)" in message]
    assert len(said) == 1 and "$" not in caplog.messages[-1]


def test_workers_that_end_with_the_run_are_not_gone(sink):
    """Ray takes them away after the last row."""
    sink.tally.workers, sink.tally.actors = {"w/7": time.time()}, {"w/7": "a"}
    watched = progress(sink, Metrics("r", "none", 2), 2, Tariff(), All())
    sink.tally.labelled = 2
    watched._check_workers()
    assert not sink.tally.gone
    sink.tally.labelled = 1
    watched._check_workers()
    assert sink.tally.gone.keys() == {"w/7"}
