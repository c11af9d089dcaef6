"""What a run may cost and how long it may take, and its end when a limit is reached.

A batch that has begun is finished, for it is paid for. So a run stops a little early: when what is left of its limit
is what the batches in hand will take, by the mean of those before. Cost is counted as the run's record counts it, each
worker from its start, idle or not; a worker's start is known once it has delivered a row.
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
PATIENCE = 5  # checks that fail, one after the other; and such without any worker, once the run is to end
STILL = 600.0  # seconds without a row or a worker, once the run is to end, where Ray doesn't say that any is wanted
AGAIN = 10.0  # seconds between two interruptions of the main thread
INTERRUPT = signal.SIGRTMIN + 5  # not SIGINT, which a job started by `&` in a script ignores
BATCHES_IN_HAND = 2  # of each worker, at most: one with the model, one that waits for its turn


@dataclass(frozen=True)
class Limits:
    """Limits of one run, each None where there is none: USD, and hours. One in USD comes with what workers cost."""

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
            if usd is None or usd >= self.max_cost:  # what can't be counted can't be kept within a budget
                return "max-cost"
        if self.max_hours is not None and seconds + last >= 3600 * self.max_hours:
            return "max-hours"
        return None


class LimitWatch:
    """Runs alongside, as a context: closes the gate when a limit is reached.

    Args:
        began: when the run did, on the monotonic clock.

    Attributes:
        stopped_by: the option whose limit was reached.
        gave_up: whether there was no worker then that could take what is under way, as where no GPU has come yet. The
            main thread is interrupted in that case, as by Ctrl-C: the stream would never run dry.

    Enter it in the main thread, the only one that signals reach.
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
            except Exception as error:  # whatever it is, the limit holds: what can't be counted can't be kept within it
                failures += 1
                LOG.warning("the run's limits can't be checked: %s: %s", type(error).__name__, error)
                if failures == PATIENCE:
                    self.stopped_by = "max-hours" if self._limits.max_cost is None else "max-cost"
        if self.stopped_by is None:
            return
        LOG.info("--%s is reached: batches in hand are finished, then the run ends", self.stopped_by)
        try:
            self._gate.close()
        except ray.exceptions.RayError as error:  # the stages ask in vain then, too, which ends the run
            LOG.warning("the stages can't be told to stop: %s", type(error).__name__)
        self._give_up_without_workers()

    def _give_up_without_workers(self) -> None:
        alone, rows, moved = 0, self._tally.rows, time.monotonic()
        while not self._over.wait(self._every):
            seen = self._roster.attendance()
            if seen.alive or self._tally.rows > rows:
                rows, moved = self._tally.rows, time.monotonic()
            nobody = not seen.alive and (seen.wanted or time.monotonic() - moved >= STILL)
            alone = alone + 1 if nobody else 0
            if alone == PATIENCE:
                self.gave_up = True
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Again and again, until the main thread is out of the stream: what is raised in a callback of Ray is lost."""
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, INTERRUPT)
        while not self._over.wait(AGAIN):
            signal.pthread_kill(main, INTERRUPT)
