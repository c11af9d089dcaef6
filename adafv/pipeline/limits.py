"""What a run may cost, how long it may take, and how it ends when a limit is reached.

Batches in progress are finished, since they are paid for. So a run stops early: when what is left of the limit is what
the batches in progress will take, going by the mean so far. Cost is counted as in the run's record: each worker from
its start, idle or not. A worker's start is known once it has delivered a row.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass

import ray.exceptions

from adafv.pipeline.control.gate import Gate
from adafv.pipeline.control.roster import Roster
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.tally import Tally

LOG = logging.getLogger("adafv")
EVERY = 1.0  # seconds between checks of the tally
PATIENCE = 5  # failed checks in a row; and checks without any worker, once the run is to end
STILL = 600.0  # seconds without a row or a worker, once the run is to end and Ray wants no worker
AGAIN = 10.0  # seconds between two interruptions of the main thread
INTERRUPT = signal.SIGRTMIN + 5  # not SIGINT, which a background job of a script ignores
BATCHES_IN_HAND = 2  # of each worker, at most: one with the model, one that waits for its turn


@dataclass(frozen=True)
class Limits:
    """The limits of one run in USD and hours, each None if not set, and what workers cost."""

    max_cost: float | None
    max_hours: float | None
    tariff: Tariff

    @classmethod
    def of(cls, options: JobOptions, tariff: Tariff) -> Limits:
        return cls(options.max_cost, options.max_hours, tariff)

    @property
    def is_limited(self) -> bool:
        return self.max_cost is not None or self.max_hours is not None

    def spent(self, tally: Tally, seconds: float, now: float) -> str | None:
        """The option whose limit is reached, such as `max-cost`; None if none is.

        Args:
            seconds: since the run began.
            now: UNIX time.
        """
        last = BATCHES_IN_HAND * (tally.totals["gpu_seconds"] / tally.batches if tally.batches else 0.0)
        if self.max_cost is not None:
            usd = tally.usd(now + last, self.tariff)
            if usd is None or usd >= self.max_cost:  # an unknown cost can't be kept within the limit
                return "max-cost"
        if self.max_hours is not None and seconds + last >= 3600 * self.max_hours:
            return "max-hours"
        return None


class LimitWatch:
    """A context that watches the limits in a thread and closes the gate when one is reached.

    Enter it in the main thread, the only one that gets signals.

    Args:
        began: when the run began, on the monotonic clock.

    Attributes:
        stopped_by: the option whose limit was reached.
        gave_up: whether there was no worker left to finish what is in progress, for example because no GPU has come
            yet. The stream would never end then, so the main thread is interrupted as by Ctrl-C.
    """

    def __init__(
        self, *, limits: Limits, tally: Tally, gate: Gate, began: float, roster: Roster, every: float = EVERY
    ) -> None:
        self._limits, self._tally, self._gate, self._began, self._every = limits, tally, gate, began, every
        self._roster = roster
        self.stopped_by: str | None = None
        self.gave_up = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)

    def __enter__(self) -> LimitWatch:
        self._handler = signal.signal(INTERRUPT, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(INTERRUPT, self._handler)

    def _run(self) -> None:
        failures = 0
        while self.stopped_by is None and not self._over.wait(self._every):
            try:
                self.stopped_by = self._limits.spent(self._tally, time.monotonic() - self._began, time.time())
                failures = 0
            except Exception as error:  # an unknown cost can't be kept within the limit
                failures += 1
                LOG.warning("can't check the run's limits: %s: %s", type(error).__name__, error)
                if failures == PATIENCE:
                    self.stopped_by = "max-hours" if self._limits.max_cost is None else "max-cost"
        if self.stopped_by is None:
            return
        LOG.info("--%s is reached: the run finishes the current batches and ends", self.stopped_by)
        try:
            self._gate.close()
        except ray.exceptions.RayError as error:  # then the stages can't ask either, which ends the run
            LOG.warning("can't tell the stages to stop: %s", type(error).__name__)
        self._give_up_without_workers()

    def _give_up_without_workers(self) -> None:
        alone, rows, moved = 0, self._tally.rows, time.monotonic()
        while not self._over.wait(self._every):
            seen = self._roster.status()
            if seen.alive or self._tally.rows > rows:
                rows, moved = self._tally.rows, time.monotonic()
            no_worker = not seen.alive and (seen.wanted or time.monotonic() - moved >= STILL)
            alone = alone + 1 if no_worker else 0
            if alone == PATIENCE:
                self.gave_up = True
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Repeat until the main thread has left the stream: an exception raised inside a Ray callback is lost."""
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, INTERRUPT)
        while not self._over.wait(AGAIN):
            signal.pthread_kill(main, INTERRUPT)
