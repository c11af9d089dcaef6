"""Which of a run's workers are there, and what is said while none is.

Ray keeps a list of all actors in the process that runs the cluster; `ray.util.state` would show it, but only where
there is a dashboard. The list also tells of a worker that is gone, which no row does: a spot machine that was taken
back costs nothing any more.

A worker is an actor of this Ray job that Ray names after our class, however it puts that, or one that rows have come
from. One that rows have come from and that the list doesn't have isn't gone, as far as anybody knows: it costs on, and
a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray

from adafv.internals import actors

LOG = logging.getLogger("adafv")
ALIVE, DEAD = "ALIVE", "DEAD"
FIRST_PAUSE, PAUSE = 60.0, 300.0  # seconds from the first word about waiting to the next, and between later ones


@dataclass(frozen=True)
class Attendance:
    """The workers at one moment.

    Attributes:
        alive: the actor and process number of each that is there.
        wanted: how many Ray Data wants at the moment, those that are there included.
        units: the GPUs of the cluster, or its CPUs where the workers run on those; `free`: those that nobody has.
        unlisted: the actors that rows have come from and that Ray doesn't list, dead or alive.
    """

    alive: frozenset[tuple[str, int]]
    wanted: int
    units: float
    free: float
    unlisted: frozenset[str] = frozenset()


class Roster:
    """Ray's list of this run's workers, each with so many `gpus`; with none they run on CPUs.

    Args:
        worker: the name of their class.
        heard_of: the actors that rows have come from so far.
    """

    def __init__(self, gpus: float, worker: str, heard_of: Callable[[], Collection[str]]) -> None:
        self._gpus, self._unit, self._worker, self._heard_of = gpus, "GPU" if gpus else "CPU", worker, heard_of
        self._job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        self._warned = False

    def attendance(self) -> Attendance:
        """Who is there. Where Ray doesn't say, nobody is known to be wanted or gone."""
        heard_of = self._heard_of()
        try:
            units, free = ray.cluster_resources().get(self._unit, 0.0), ray.available_resources().get(self._unit, 0.0)
            seen = attendance_of(actors(self._job), self._worker, heard_of, units, free)
        except Exception as error:  # of a private function, so of any kind; a run doesn't end for want of this list
            self._warn(f"Ray's list of actors can't be read ({type(error).__name__}: {error})")
            return Attendance(frozenset(), 0, 0.0, 0.0, frozenset(heard_of))
        if seen.unlisted:
            self._warn(f"rows come from {len(seen.unlisted)} workers that Ray doesn't list")
        return seen

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            LOG.warning("%s: that a worker is lost won't be noticed, and its cost is counted on", problem)

    def line(self, seen: Attendance, seconds: float) -> str:
        """What to say when none has been there for so many seconds."""
        line = (
            f"waiting for a {self._unit} worker: 0 of {seen.wanted} there after {timedelta(seconds=round(seconds))}; "
            f"the cluster has {seen.units:g} {self._unit}s, {seen.free:g} of them free"
        )
        if seen.units >= seen.wanted * max(1.0, self._gpus):
            return f"{line}: workers are starting, or others have the {self._unit}s"
        return f"{line}. Its autoscaler, if it has one, has been asked for more: see `ray status`"


def attendance_of(
    known: Iterable[Mapping[str, Any]], worker: str, heard_of: Collection[str], units: float, free: float
) -> Attendance:
    """Of Ray's list of a job's actors: those named after the class `worker`, or that rows have come from."""
    listed = {actor["ActorID"]: actor for actor in known}
    ours = [
        actor
        for id, actor in listed.items()
        if actor["State"] != DEAD and (worker in actor["ActorClassName"] or id in heard_of)
    ]
    alive = frozenset((actor["ActorID"], actor["Pid"]) for actor in ours if actor["State"] == ALIVE)
    return Attendance(alive, len(ours), units, free, frozenset(heard_of) - listed.keys())


class Waiting:
    """How long there has been no worker, and when that is worth another word. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self._since = self._next = now
        self._pause = FIRST_PAUSE

    def note(self, now: float, nobody: bool) -> float | None:
        """How long there has been none, if that is to be said now."""
        if not nobody:
            self._since, self._next, self._pause = now, now, FIRST_PAUSE
            return None
        if now < self._next:
            return None
        self._next, self._pause = now + self._pause, PAUSE
        return now - self._since
