"""Which of a run's workers are there, and what is said while none is.

Ray keeps a list of all actors in the process that runs the cluster; `ray.util.state` would show it, but only where
there is a dashboard. The list also tells of a worker that is gone, which no row does: a spot machine that was taken
back costs nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray

from adafv.internals import actors

MAP_WORKER = "MapWorker(MapBatches(Worker))"  # what Ray Data calls the actors of the class `Worker`
ALIVE, DEAD = "ALIVE", "DEAD"
FIRST_PAUSES = (60.0, 300.0)  # seconds from the first word about waiting to the next two
PAUSE = 300.0  # from then on


@dataclass(frozen=True)
class Attendance:
    """The workers at one moment.

    Attributes:
        alive: the actor and process number of each that is there.
        wanted: how many Ray Data wants at the moment, those that are there included.
        units: the GPUs of the cluster, or its CPUs where the workers run on those; `free`: those that nobody has.
    """

    alive: frozenset[tuple[str, int]]
    wanted: int
    units: float
    free: float


class Roster:
    """Ray's list of this run's workers, each with so many `gpus`; with none they run on CPUs."""

    def __init__(self, gpus: float) -> None:
        self._gpus, self._unit = gpus, "GPU" if gpus else "CPU"
        self._job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())

    def attendance(self) -> Attendance:
        units, free = ray.cluster_resources().get(self._unit, 0.0), ray.available_resources().get(self._unit, 0.0)
        return attendance_of(actors(self._job), units, free)

    def line(self, seen: Attendance, seconds: float) -> str:
        """What to say when none has been there for so many seconds."""
        line = (
            f"waiting for a {self._unit} worker: 0 of {seen.wanted} there after {timedelta(seconds=round(seconds))}; "
            f"the cluster has {seen.units:g} {self._unit}s, {seen.free:g} of them free"
        )
        if seen.units >= seen.wanted * max(1.0, self._gpus):
            return f"{line}: workers are starting, or others have the {self._unit}s"
        return f"{line}. Its autoscaler, if it has one, has been asked for more: see `ray status`"


def attendance_of(known: Iterable[Mapping[str, Any]], units: float, free: float) -> Attendance:
    """Of Ray's list of a job's actors; those that are dead are others', or of an earlier run."""
    workers = [actor for actor in known if actor["ActorClassName"] == MAP_WORKER and actor["State"] != DEAD]
    alive = frozenset((actor["ActorID"], actor["Pid"]) for actor in workers if actor["State"] == ALIVE)
    return Attendance(alive, len(workers), units, free)


class Waiting:
    """How long there has been no worker, and when that is worth another word. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._said = 0
        self._next = now

    def note(self, now: float, nobody: bool) -> float | None:
        """How long there has been none, if that is to be said now."""
        if not nobody:
            self._since, self._said, self._next = now, 0, now
            return None
        if now < self._next:
            return None
        self._next = now + (FIRST_PAUSES[self._said] if self._said < len(FIRST_PAUSES) else PAUSE)
        self._said += 1
        return now - self._since
