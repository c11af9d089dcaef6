"""The Ray session of a run: started or joined, and configured."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adafv.internals import global_node

DATA_LOG = logging.getLogger("ray.data")
BAD_STARTS = 3  # workers in a row that may die while starting, as on a spot machine that is taken back


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for one run or several: the initialised one, the cluster that RAY_ADDRESS names, or a local one.

    Afterwards Ray Data's settings and log level are as before.
    """
    log_level, ours = DATA_LOG.level, not ray.is_initialized()
    with DataContext.current(DataContext.get_current().copy()):
        if ours:
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            dashboard = False if address == "local" else None
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # ray.init's handler ends the process in mid-write
        try:
            yield
        finally:
            if ours:
                ray.shutdown()
            DATA_LOG.setLevel(log_level)


def is_ours_alone() -> bool:
    """Whether this process started Ray itself, so that no node will ever join."""
    node = global_node()
    return node is not None and node.is_head()


def driver_actor(kind: type) -> Any:
    """An actor on the driver's node, which is lost only with the run."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=here).remote()


def configure_ray_data(grow_at: float) -> None:
    """Set up Ray Data for a job: no progress bars or notices in the job's log, and failures are reported by the job.

    By default Ray Data ends a run after half an hour without progress, but GPUs may take longer to come, and hanging
    work has its own time-out here. It also adds a worker only when each has 1.75 times the calls it can take at once,
    which never happens with our short queues.

    Args:
        grow_at: start another worker when each has this many times the calls it can take at once.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    DATA_LOG.setLevel(logging.CRITICAL)
    context.execution_no_progress_timeout_s = -1
    context.autoscaling_config.actor_pool_util_upscaling_threshold = grow_at
    context.max_consecutive_actor_init_deaths = BAD_STARTS


def cause_of(error: ray.exceptions.RayError) -> str:
    """The reason of a Ray error in one line. For an exception in a stage that is the last line of its own traceback,
    which Ray prints first."""
    inner, wrapped, _ = str(error).partition("\n\nThe above exception was the direct cause")
    lines = [line.strip() for line in inner.splitlines() if line.strip()]
    return lines[-1 if wrapped else 0] if lines else type(error).__name__
