"""When a run's budget counts as spent."""

from __future__ import annotations

import logging
import signal
import time
from datetime import date

import pytest

from adafv.pipeline import limits as module
from adafv.pipeline.control.roster import WorkerStatus
from adafv.pipeline.limits import Limits, LimitWatch
from adafv.pipeline.record.prices import Price, Tariff
from adafv.pipeline.record.tally import Device, Tally


def tally(**values) -> Tally:
    """Four workers that have been held for 100 s at 1000 s of the epoch, and label in batches of 5 s."""
    found = Tally(labelled=100, batches=20, workers=dict.fromkeys("abcd", 900.0))
    found.totals["gpu_seconds"] = 100.0
    return found


@pytest.mark.parametrize(
    ("max_cost", "now", "spent"),
    [
        (0.44, 999.9, None),
        (0.44, 1000.0, "max-cost"),  # 4 x (100 + 2 x 5) s at 3.6 USD an hour
        (0.45, 1000.0, None),
    ],
)
def test_cost_is_idle_time_and_what_the_batches_in_hand_will_take(max_cost, now, spent):
    assert Limits(max_cost, None, Tariff(3.6)).spent(tally(), 1e9, now) == spent


def test_a_cost_that_is_not_known_is_kept_within_no_budget():
    devices = Tally(workers={"w": 0.0}, devices={"w": Device("H100")})
    table = (Price(1.0, date(2026, 11, 22), "made up", "A10G"),)
    assert Limits(5.0, None, Tariff(table=table)).spent(devices, 0.0, 1.0) == "max-cost"
    assert Limits(5.0, None, Tariff(table=table)).spent(Tally(), 0.0, 1.0) is None


def test_workers_without_any_label_are_kept_within_the_budget():
    """By --prices, nobody knows what they run on: they cost at least the lowest price, and not nothing."""
    rejecting, found = Tally(workers={"w": 0.0}), date(2026, 11, 22)
    table = (Price(1.0, found, "x", "A10G"), Price(8.0, found, "x", "H100"), Price(0.1, found, "x", None, "c7i.large"))
    limits = Limits(5.0, None, Tariff(table=table, gpus=2))
    assert limits.spent(rejecting, 0.0, 3600 * 2.4) is None
    assert limits.spent(rejecting, 0.0, 3600 * 2.5) == "max-cost"


def test_hours_are_those_since_the_start():
    budget = Limits(None, 1.0, Tariff())
    assert budget.spent(tally(), 3589.9, 0) is None
    assert budget.spent(tally(), 3590, 0) == "max-hours"
    assert budget.spent(Tally(), 3599, 0) is None, "nothing is known of its batches yet"


def test_without_limits():
    assert (
        not Limits(None, None, Tariff(1.0)).is_limited
        and Limits(None, None, Tariff(1.0)).spent(tally(), 1e9, 1e9) is None
    )


class Gate:
    closed = False

    def close(self) -> None:
        self.closed = True


class Busy:
    """Stands for Ray's list of workers: one is there."""

    def status(self) -> WorkerStatus:
        return WorkerStatus(frozenset({("a", 7)}), 1, 1, 0)


def watch_over(limits: Limits, gate: Gate, roster: object, found: Tally | None = None) -> LimitWatch:
    began = time.monotonic()
    return LimitWatch(limits=limits, tally=found or Tally(), gate=gate, began=began, roster=roster, every=0.01)


def test_the_gate_is_closed_once_it_is_spent(caplog):
    caplog.set_level(logging.INFO, "adafv")
    gate = Gate()
    with watch_over(Limits(None, 1.0, Tariff()), gate, Busy()) as watch:
        time.sleep(0.1)
        assert not gate.closed and watch.stopped_by is None
    with watch_over(Limits(None, 1e-9, Tariff()), gate, Busy()) as watch:
        while not gate.closed:
            time.sleep(0.01)
    assert watch.stopped_by == "max-hours" and "--max-hours is reached" in caplog.text


class Nobody:
    """Stands for Ray's list of workers: one is wanted, and none is there."""

    def status(self) -> WorkerStatus:
        return WorkerStatus(frozenset(), 1, 0, 0)


def test_without_workers_the_main_thread_is_interrupted_until_it_is_out_of_the_stream(monkeypatch):
    """An interruption may be lost, as in a callback."""
    monkeypatch.setattr(module, "AGAIN", 2.0)
    gate = Gate()
    with watch_over(Limits(None, 1e-9, Tariff()), gate, Nobody()) as watch:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                time.sleep(300)
    assert gate.closed and watch.gave_up


def test_a_job_that_ignores_ctrl_c_is_ended_all_the_same():
    """As one is that a script started with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with watch_over(Limits(None, 1e-9, Tariff()), Gate(), Nobody()) as watch, pytest.raises(KeyboardInterrupt):
            time.sleep(300)
    finally:
        signal.signal(signal.SIGINT, before)
    assert watch.gave_up and signal.getsignal(module.INTERRUPT) == signal.SIG_DFL


class Unknown:
    """Stands for Ray's list of workers where it can't be read."""

    def status(self) -> WorkerStatus:
        return WorkerStatus(frozenset(), 0, 0.0, 0.0)


def test_where_ray_does_not_say_who_is_there_a_run_that_stands_still_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "STILL", 0.3)
    started = time.monotonic()
    with watch_over(Limits(None, 1e-9, Tariff()), Gate(), Unknown()) as watch:
        with pytest.raises(KeyboardInterrupt):
            time.sleep(300)
        assert time.monotonic() - started >= 0.3
    assert watch.gave_up


def test_a_check_that_fails_is_reported_and_the_next_one_counts(monkeypatch, caplog):
    found, gate, real = tally(), Gate(), Tally.usd
    troubles = [RuntimeError("dictionary changed size"), OSError("unreachable")]

    def usd(self: Tally, now: float, tariff: Tariff) -> float | None:
        if troubles:
            raise troubles.pop()
        return real(self, now, tariff)

    monkeypatch.setattr(Tally, "usd", usd)
    with watch_over(Limits(0.01, None, Tariff(3.6)), gate, Busy(), found) as watch:
        while not gate.closed:
            time.sleep(0.01)
    assert watch.stopped_by == "max-cost"
    assert [message for message in caplog.messages if "can't check the run's limits: OSError: unreachable" in message]


def test_what_can_never_be_checked_ends_the_run(monkeypatch, caplog):
    monkeypatch.setattr(Tally, "usd", lambda *_: {}["gone"])
    gate = Gate()
    with watch_over(Limits(5.0, None, Tariff(3.6)), gate, Busy(), tally()) as watch:
        while not gate.closed:
            time.sleep(0.01)
    assert watch.stopped_by == "max-cost" and caplog.text.count("can't check the run's limits") == module.PATIENCE
