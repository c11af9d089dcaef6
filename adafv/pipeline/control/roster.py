"""Which of a run's workers are alive, and what to log while none is.

Ray's list of all actors comes from the process that runs the cluster; `ray.util.state` would give it, but only with a
dashboard. Unlike the rows that come in, the list also shows that a worker is gone: a spot machine that was taken back
costs nothing any more.

A worker is an actor of this Ray job that has our class in its name or that rows have come from. An actor that rows came
from and that isn't listed may still be alive: its cost is counted on, with a warning.
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


@dataclass(frozen=True)
class WorkerStatus:
    """The workers at one moment.

    Attributes:
        alive: the actor id and process number of each live worker.
        wanted: how many workers Ray Data wants, the live ones included.
        units: the cluster's GPUs, or its CPUs for CPU workers; `free`: the unused ones.
        unlisted: actors that rows have come from and that Ray doesn't list, dead or alive.
        ended: actors that Ray Data has ended. It starts a lost worker's actor again.
    """

    alive: frozenset[tuple[str, int]]
    wanted: int
    units: float
    free: float
    unlisted: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()


class Roster:
    """Ray's list of this run's workers.

    Args:
        gpus: per worker; 0 for CPU workers.
        worker: the name of their class.
        reporting: returns the actors that rows have come from so far.
    """

    def __init__(self, gpus: float, worker: str, reporting: Callable[[], Collection[str]]) -> None:
        self._gpus, self._unit, self._worker, self._reporting = gpus, "GPU" if gpus else "CPU", worker, reporting
        self._job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        self._warned = False

    def status(self) -> WorkerStatus:
        """The current status. If Ray's list can't be read, no worker counts as wanted or gone."""
        reporting = self._reporting()
        try:
            units, free = ray.cluster_resources().get(self._unit, 0.0), ray.available_resources().get(self._unit, 0.0)
            seen = worker_status(actors(self._job), self._worker, reporting, units, free)
        except Exception as error:  # a private function may raise anything; a run can do without this list
            self._warn(f"Ray's list of actors can't be read ({type(error).__name__}: {error})")
            return WorkerStatus(frozenset(), 0, 0.0, 0.0, frozenset(reporting))
        if seen.unlisted:
            self._warn(f"rows come from {len(seen.unlisted)} workers that Ray doesn't list")
        return seen

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            LOG.warning("%s: lost workers go unnoticed and keep adding to the cost", problem)

    def waiting_message(self, seen: WorkerStatus, seconds: float) -> str:
        """The log line after `seconds` without any worker."""
        line = (
            f"waiting for a {self._unit} worker: 0 of {seen.wanted} there after {timedelta(seconds=round(seconds))}; "
            f"the cluster has {seen.units:g} {self._unit}s, {seen.free:g} of them free"
        )
        if seen.units >= seen.wanted * max(1.0, self._gpus):
            return f"{line}: workers are starting, or other jobs use the {self._unit}s"
        return f"{line}. An autoscaler, if the cluster has one, starts more: see `ray status`"


def worker_status(
    known: Iterable[Mapping[str, Any]], worker: str, reporting: Collection[str], units: float, free: float
) -> WorkerStatus:
    """The status from Ray's list of a job's actors: those with `worker` in their class name, or that rows came from."""
    listed = {actor["ActorID"]: actor for actor in known}
    ours = [
        actor
        for id, actor in listed.items()
        if actor["State"] != DEAD and (worker in actor["ActorClassName"] or id in reporting)
    ]
    alive = frozenset((actor["ActorID"], actor["Pid"]) for actor in ours if actor["State"] == ALIVE)
    ended = frozenset(id for id in reporting if id in listed and listed[id]["State"] == DEAD)
    return WorkerStatus(alive, len(ours), units, free, frozenset(reporting) - listed.keys(), ended)
