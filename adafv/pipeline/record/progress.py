"""A log line every ten seconds: rows done, samples per second, time left, cost so far.

A job's log has no terminal, so there are no progress bars. A thread logs the line, so it also comes when nothing moves,
and once more at the end, so that a failed run says how far it came. The same thread updates the metrics and writes
files that are due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from adafv.pipeline.control.roster import Roster, WorkerStatus
from adafv.pipeline.record.metrics import Metrics
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.tally import Tally
from adafv.pipeline.redaction import safe_message

LOG = logging.getLogger("adafv")
EVERY = 10.0  # seconds
WINDOW = 300.0  # seconds that rates are averaged over
STILL = 60.0  # seconds without a row after which to say so


class Pace:
    """How fast rows come out, over the last `WINDOW` seconds. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self._past = deque([(now, 0, 0)])  # (time, rows, labelled), from the window's start
        self._moved = now

    def note(self, now: float, rows: int, labelled: int) -> None:
        """Called for each line. The time before the first row, when workers load the model, doesn't count."""
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
        """Seconds since the last row came out."""
        return self._past[-1][0] - self._moved

    def _rate(self, column: int) -> float:
        first, last = self._past[0], self._past[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else 0.0


class Progress:
    """A context that reports on a tally until `to_do` rows are reached.

    Args:
        write_due: writes the files that are due.
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
        self._pace = Pace(time.monotonic())
        self._alone: float | None = time.monotonic()  # since when there is no worker
        self._unpriced: set[str] = set()  # devices already reported as without a price
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
        """Raise an error of the thread, such as a file that could not be written."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        self._try(self._publish)
        while not self._stop.wait(self._every):
            self._try(self._check_workers)
            self._try(self._publish)
            if self._error is None:
                self._try(self._write_due)

    def _try(self, step: Callable[[], None]) -> None:
        """Keep a step's first error for `check`, and log it: while the job waits for workers, nobody calls that."""
        try:
            step()
        except Exception as error:  # raised in the main thread by `check`
            if self._error is None:
                self._error = error
                problem = safe_message(f"{type(error).__name__}: {error}")
                LOG.error("%s; the run ends as soon as a row comes", problem)

    def _check_workers(self) -> None:
        """Log how far the run is; or, without workers, what it is waiting for."""
        seen, now = self._roster.status(), time.monotonic()
        if self._tally.rows < self._to_do:  # after the last row, Ray takes the workers away
            self._tally.note_gone(seen.alive, time.time(), seen.unlisted, seen.ended)
        if seen.wanted and not seen.alive:
            self._alone = now if self._alone is None else self._alone
            LOG.info(self._roster.waiting_message(seen, now - self._alone))
        else:
            self._alone = None
            LOG.info(self.line(seen))
        self._say_unpriced()

    def _say_unpriced(self) -> None:
        for device, instance, _ in set(self._tally.devices.values()):
            name = device if instance is None else f"{device} ({instance})"
            if self._tariff.table and self._tariff.of(device, instance) is None and name not in self._unpriced:
                self._unpriced.add(name)
                LOG.warning("--prices has no price for %s, so the run's cost is unknown", name)

    def _publish(self) -> None:
        tally, now = self._tally, time.time()
        self._metrics.publish(tally, tally.worker_seconds(now), tally.usd(now, self._tariff))

    def line(self, seen: WorkerStatus | None = None) -> str:
        tally, pace = self._tally, self._pace
        pace.note(time.monotonic(), tally.rows, tally.labelled)
        left = round((self._to_do - tally.rows) / pace.rows_per_second) if pace.rows_per_second else None
        parts = [
            f"{tally.rows:,}/{self._to_do:,} rows ({tally.rows / self._to_do:.0%})",
            f"{pace.samples_per_second:.1f} samples/s",
            "unknown time left" if left is None else f"{timedelta(seconds=left)} left",
        ]
        rejected = tally.rejected.copy()  # a copy: another thread adds to it
        for error, count in rejected.most_common(1):
            parts.append(f"{rejected.total():,} rejected (most: {error} {count:,})")
        if seen is not None and len(seen.alive) < seen.wanted:
            parts.append(f"{len(seen.alive)} of {seen.wanted} workers there")
        if (usd := tally.usd(time.time(), self._tariff)) is not None:
            parts.append(f"${usd:.4f} so far")
        if pace.still >= STILL:
            parts.append(f"no row for {timedelta(seconds=round(pace.still))}")
        return ", ".join(parts)
