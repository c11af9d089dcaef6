"""A line every ten seconds: rows done, samples per second, time left, cost so far.

A job's log has no terminal, so there are no bars. The line comes from a thread of its own, so that it also comes when
nothing moves, which is when one wants it, and once more at the end, so that a run that fails says how far it came. The
same thread brings the metrics up to date, and has files written whose time has come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from adafv.pipeline.control.roster import Attendance, Roster, Waiting
from adafv.pipeline.record.metrics import Metrics
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.tally import Tally

LOG = logging.getLogger("adafv")
EVERY = 10.0  # seconds
WINDOW = 300.0  # seconds that rates are of
STILL = 60.0  # seconds without a row that are worth a word


class Pace:
    """How fast rows come out: lately, so that a job that slows down or stands still shows it. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self._past = deque([(now, 0, 0)])  # time, rows, labelled; the first is where the window begins
        self._moved = now

    def note(self, now: float, rows: int, labelled: int) -> None:
        """Called for each line. What workers take to load the model, before the first row, is no part of the pace."""
        if rows > self._past[-1][1]:
            self._moved = now
        if not rows:
            self._past.clear()
        self._past.append((now, rows, labelled))
        while now - self._past[0][0] > WINDOW and len(self._past) > 2:
            self._past.popleft()

    @property
    def rows_per_second(self) -> float:
        return self._rate(1)

    @property
    def samples_per_second(self) -> float:
        return self._rate(2)

    @property
    def still(self) -> float:
        """How long no row has come out."""
        return self._past[-1][0] - self._moved

    def _rate(self, column: int) -> float:
        first, last = self._past[0], self._past[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else 0.0


class Progress:
    """Runs alongside, as a context: reports on a tally that `to_do` rows are to reach.

    Args:
        write_due: has files written whose time has come.
    """

    def __init__(
        self,
        *,
        tally: Tally,
        write_due: Callable[[], None],
        metrics: Metrics,
        to_do: int,
        tariff: Tariff,
        roster: Roster,
        every: float = EVERY,
    ) -> None:
        self._tally, self._write_due, self._metrics = tally, write_due, metrics
        self._to_do, self._tariff, self._roster, self._every = to_do, tariff, roster, every
        self._pace, self._waiting = Pace(time.monotonic()), Waiting(time.monotonic())
        self._unpriced: set[str] = set()  # devices that were said to have no price
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        LOG.info(self.line())

    def check(self) -> None:
        """Raise what went wrong in the thread, such as a file that could not be written."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._publish()
            while not self._stop.wait(self._every):
                self._check_workers()
                self._publish()
                self._write_due()
        except Exception as error:  # carried over to the main thread, by `check`
            self._error = error

    def _check_workers(self) -> None:
        """Note who is there, and say how far the run is; or, where there is nobody, what it is waiting for."""
        seen, now = self._roster.attendance(), time.monotonic()
        self._tally.note_gone(seen.alive, time.time(), seen.unlisted)
        nobody = bool(seen.wanted and not seen.alive)
        waited = self._waiting.note(now, nobody)
        if waited is not None:
            LOG.info(self._roster.line(seen, waited))
        elif not nobody:
            LOG.info(self.line(seen))
        self._say_unpriced()

    def _say_unpriced(self) -> None:
        for device, instance, _ in set(self._tally.devices.values()):
            name = device if instance is None else f"{device} ({instance})"
            if self._tariff.table and self._tariff.of(device, instance) is None and name not in self._unpriced:
                self._unpriced.add(name)
                LOG.warning("--prices has none for %s: what the run costs isn't known", name)

    def _publish(self) -> None:
        tally, now = self._tally, time.time()
        self._metrics.publish(tally, tally.worker_seconds(now), tally.usd(now, self._tariff))

    def line(self, seen: Attendance | None = None) -> str:
        tally, pace = self._tally, self._pace
        pace.note(time.monotonic(), tally.rows, tally.labelled)
        left = round((self._to_do - tally.rows) / pace.rows_per_second) if pace.rows_per_second else None
        parts = [
            f"{tally.rows:,}/{self._to_do:,} rows ({tally.rows / self._to_do:.0%})",
            f"{pace.samples_per_second:.1f} samples/s",
            "unknown time left" if left is None else f"{timedelta(seconds=left)} left",
        ]
        rejected = tally.rejected.copy()  # at one moment: another thread adds to it
        for error, count in rejected.most_common(1):
            parts.append(f"{rejected.total():,} rejected (most: {error} {count:,})")
        if seen is not None and len(seen.alive) < seen.wanted:
            parts.append(f"{len(seen.alive)} of {seen.wanted} workers there")
        if (usd := tally.usd(time.time(), self._tariff)) is not None:
            parts.append(f"${usd:.4f} so far")
        if pace.still >= STILL:
            parts.append(f"no row for {timedelta(seconds=round(pace.still))}")
        return ", ".join(parts)
