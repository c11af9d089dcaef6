"""The gate: whether the stages of a run may begin more work. The driver closes it; all stages see it.

Ray Data can't end a stream early and keep what is in progress: closing its iterator kills the workers in mid-batch and
loses rows that were paid for. So once the gate is closed, the reading stage stops, rows that were read are not fetched,
samples are not labelled, and the stream runs dry within a batch or two per worker.

The state is in an actor on the driver's node, which is lost only with the run. Asking takes about a millisecond, so a
stage asks again only after `FRESH` seconds.
"""

from __future__ import annotations

import time

import pyarrow as pa
import ray

from adafv.pipeline.control.session import driver_actor

FRESH = 0.2  # seconds


class GateActor:
    def __init__(self) -> None:
        self._open = True

    def close(self) -> None:
        self._open = False

    def is_open(self) -> bool:
        return self._open


class Gate:
    """Created in the driver and sent to the stages. Needs an initialised Ray."""

    def __init__(self) -> None:
        self._actor = driver_actor(GateActor)
        self._asked, self._open = float("-inf"), True

    def close(self) -> None:
        """Let no more work begin. Every stage that asks after this returns sees it."""
        ray.get(self._actor.close.remote())

    def is_open(self) -> bool:
        if self._open and time.monotonic() - self._asked >= FRESH:
            self._open, self._asked = ray.get(self._actor.is_open.remote()), time.monotonic()
        return self._open

    def admit(self, table: pa.Table) -> pa.Table:
        """`table` while the gate is open, otherwise none of its rows."""
        return table if self.is_open() else table.slice(0, 0)

    def __getstate__(self) -> dict[str, object]:
        return {"_actor": self._actor, "_asked": float("-inf"), "_open": True}
