"""Whether the stages of a run may begin more work: one flag, which the driver can lower and all of them see.

Ray Data has no way to end a stream early and keep what is under way: closing its iterator kills the workers in
mid-batch, and their rows, which were paid for, are lost. So the stages themselves let go: once the gate is closed, the
reading stage reads no further, what was read is not fetched, what was prepared is not labelled, and the stream runs dry
within a batch or two of each worker.

The flag is in an actor on the driver's own node, which is lost only with the run. Asking takes about a millisecond, so
a stage asks again only when its last answer is older than `FRESH`.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

FRESH = 0.2  # seconds


class Flag:
    """What the actor holds."""

    def __init__(self) -> None:
        self._up = True

    def lower(self) -> None:
        self._up = False

    def up(self) -> bool:
        return self._up


class Gate:
    """Made in the driver, and sent to the stages with what they are made of. Needs an initialised Ray."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._flag: Any = ray.remote(num_cpus=0)(Flag).options(scheduling_strategy=here).remote()
        self._asked, self._open = float("-inf"), True

    def close(self) -> None:
        """Let no more work begin. Returns when every stage that asks from now on is told so."""
        ray.get(self._flag.lower.remote())

    def is_open(self) -> bool:
        if self._open and time.monotonic() - self._asked >= FRESH:
            self._open, self._asked = ray.get(self._flag.up.remote()), time.monotonic()
        return self._open

    def admit(self, table: pa.Table) -> pa.Table:
        """`table` while the gate is open; then none of its rows."""
        return table if self.is_open() else table.slice(0, 0)

    def __getstate__(self) -> dict[str, object]:
        return {"_flag": self._flag, "_asked": float("-inf"), "_open": True}
