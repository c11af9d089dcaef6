"""A line every ten seconds: rows done, samples per second, time left, cost so far.

A job's log has no terminal, so there are no bars. The line comes from a thread of its own, so that it also comes when
nothing moves, which is when one wants it; the same thread brings the metrics up to date, and has the sink write files
whose time has come.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from types import TracebackType

from adafv.pipeline.metrics import Metrics
from adafv.pipeline.outputs.sink import Sink

LOG = logging.getLogger("adafv")
EVERY = 10.0  # seconds


class Progress:
    """Runs alongside, as a context: reports on a sink that `to_do` rows are to reach."""

    def __init__(
        self, sink: Sink, metrics: Metrics, to_do: int, price_per_hour: float | None, every: float = EVERY
    ) -> None:
        self._sink, self._metrics, self._to_do, self._price, self._every = sink, metrics, to_do, price_per_hour, every
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the thread, such as a file that could not be written."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._publish()
            while not self._stop.wait(self._every):
                LOG.info(self.line())
                self._publish()
                self._sink.write_due()
        except Exception as error:  # carried over to the main thread, by `check`
            self._error = error

    def _publish(self) -> None:
        tally = self._sink.tally
        self._metrics.publish(tally, tally.worker_seconds(time.time()))

    def line(self) -> str:
        tally, elapsed = self._sink.tally, time.monotonic() - self._started
        rate = tally.rows / elapsed if elapsed > 0 else 0.0
        left = timedelta(seconds=round((self._to_do - tally.rows) / rate)) if rate else "unknown time"
        parts = [
            f"{tally.rows:,}/{self._to_do:,} rows ({tally.rows / self._to_do:.0%})",
            f"{rate:.1f} samples/s",
            f"{left} left",
        ]
        if tally.rejected:
            parts.append(f"{tally.rejected.total():,} rejected")
        if self._price is not None:
            parts.append(f"${tally.worker_seconds(time.time()) * self._price / 3600:.4f} so far")
        return ", ".join(parts)
