"""What can be killed, and how; and what comes back by itself after a while."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable

from tests.campaign.job import Job
from tests.services import RayCluster, S3Server, descendants, send

# How often each is chosen. `actor`: the one that labels; `task`: any other process of Ray's that works for the job;
# `child`: a process that a worker started; `node`: all processes of one that isn't the head; `hang`: the store takes
# connections and says nothing.
KINDS = {"driver": 6, "actor": 4, "task": 3, "child": 4, "node": 3, "store": 2, "hang": 1}
LONGEST_PAUSE = 20.0  # seconds until a node or the store is back


class Faults:
    """Strikes at a job and what it runs on. `chance` chooses among several targets, and how long a pause is."""

    def __init__(self, store: S3Server, cluster: RayCluster, chance: random.Random) -> None:
        self._server, self._cluster, self._chance = store, cluster, chance
        self._coming_back: list[tuple[float, Callable[[], object]]] = []
        self.store_away = False

    @property
    def away(self) -> bool:
        """Whether something that was struck isn't back yet."""
        return bool(self._coming_back)

    def strike(self, kind: str, job: Job) -> str | None:
        """Kill something of this kind; what it was. None where there is nothing of the kind at the moment."""
        strikes = {
            "driver": lambda: self._driver(job),
            "actor": self._actor,
            "task": self._task,
            "child": self._child,
            "node": self._node,
            "store": self._store,
            "hang": self._hang,
        }
        return strikes[kind]()

    def tend(self, wait: bool = False) -> None:
        """Bring back what has been away for long enough; with `wait`, all that is away."""
        while self._coming_back:
            now = time.monotonic()
            for restore in [restore for due, restore in self._coming_back if due <= now]:
                restore()
            self._coming_back = [(due, restore) for due, restore in self._coming_back if due > now]
            if not wait:
                return
            time.sleep(0.1)

    def _later(self, restore: Callable[[], object]) -> str:
        pause = self._chance.uniform(1, LONGEST_PAUSE)
        self._coming_back.append((time.monotonic() + pause, restore))
        return f"back after {pause:.0f} s"

    def _driver(self, job: Job) -> str | None:
        if job.status is not None:
            return None
        job.kill()
        return "driver"

    def _actor(self) -> str | None:
        return self._one_of(lambda name: "MapWorker" in name)

    def _task(self) -> str | None:
        return self._one_of(lambda name: name.startswith("ray::") and "Actor" not in name and "MapWorker" not in name)

    def _one_of(self, wanted: Callable[[str], bool]) -> str | None:
        workers = {pid: name for node in self._cluster.nodes for pid, name in node.workers().items()}
        return self._kill_one({pid: _stages(name) for pid, name in workers.items() if wanted(name)})

    def _child(self) -> str | None:
        workers = {pid: name for node in self._cluster.nodes for pid, name in node.workers().items()}
        return self._kill_one(
            {child: f"child of {_stages(name)}" for pid, name in workers.items() for child in descendants(pid)}
        )

    def _kill_one(self, targets: dict[int, str]) -> str | None:
        if not targets:
            return None
        pid = self._chance.choice(sorted(targets))
        return targets[pid] if send(pid, signal.SIGKILL) else None

    def _node(self) -> str | None:
        others = self._cluster.nodes[1:]
        if not others:
            return None
        node = self._chance.choice(others)
        working = ", ".join(sorted(map(_stages, node.workers().values()))) or "nothing"
        self._cluster.kill_node(node)
        return f"node with {working}; {self._later(self._cluster.add_node)}"

    def _store(self) -> str | None:
        return None if self.store_away else self._without_store("store", self._server.kill, self._server.start)

    def _hang(self) -> str | None:
        return None if self.store_away else self._without_store("store hangs", self._server.pause, self._server.resume)

    def _without_store(self, what: str, stop: Callable[[], None], start: Callable[[], None]) -> str:
        def restore() -> None:
            start()
            self.store_away = False

        stop()
        self.store_away = True
        return f"{what}; {self._later(restore)}"


def _stages(name: str) -> str:
    """Which stages a process of Ray's works at, of the name that it gives itself."""
    return "+".join(re.findall(r"MapBatches\((\w+)", name)) or name
