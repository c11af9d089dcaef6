"""Ray, for the time of a run: started or joined, kept quiet, and told to be patient."""

from __future__ import annotations

import logging
import os
import signal
import threading

import ray
from ray.data import DataContext

from adafv.internals import global_node

DATA_LOG = logging.getLogger("ray.data")
BAD_STARTS = 3  # workers in a row that may die before they are there, as on a machine that is taken back just then


class RaySession:
    """Ray for the time of one run or of several: the one that is initialised, or the cluster that RAY_ADDRESS names, or
    a local one. What is set for a run, of Ray Data and its log, is then as it was before."""

    def __enter__(self) -> None:
        self._settings = DataContext.current(DataContext.get_current().copy())
        self._settings.__enter__()
        self._log_level = DATA_LOG.level
        self._ours = not ray.is_initialized()
        if self._ours:
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            dashboard = False if address == "local" else None
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own, set by init, ends the process in mid-write

    def __exit__(self, *_: object) -> None:
        if self._ours:
            ray.shutdown()
        DATA_LOG.setLevel(self._log_level)
        self._settings.__exit__(None, None, None)


def is_ours_alone() -> bool:
    """Whether this process has started its Ray itself: no node will ever join that."""
    node = global_node()
    return node is not None and node.is_head()


def settle(grow_at: float) -> None:
    """Set Ray Data up for a job. Its bars and notices stay out of the job's log; they are in Ray's own, and what fails,
    the job reports. And it waits for workers, and starts as many as there is work for.

    It would end the run after half an hour in which nothing moves; GPUs may take longer to come, and what hangs here
    has a time-out of its own. And it would never start more than MIN workers: it does so when each has 1.75 times the
    calls that it can take at once, and ours don't queue so many.

    Args:
        grow_at: another worker is started when each has so many times the calls that it can take at once.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    DATA_LOG.setLevel(logging.CRITICAL)
    context.execution_no_progress_timeout_s = -1
    context.autoscaling_config.actor_pool_util_upscaling_threshold = grow_at
    context.max_consecutive_actor_init_deaths = BAD_STARTS


def cause_of(error: ray.exceptions.RayError) -> str:
    """The reason of a Ray error in one line. Of an exception in a stage, that is the last line of its own traceback,
    which Ray prints before those of the exceptions it wrapped around it."""
    inner, wrapped, _ = str(error).partition("\n\nThe above exception was the direct cause")
    lines = [line.strip() for line in inner.splitlines() if line.strip()]
    return lines[-1 if wrapped else 0] if lines else type(error).__name__
