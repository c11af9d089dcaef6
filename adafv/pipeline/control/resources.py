"""Divides CPUs and GPUs among the stages, so that no stage starves another on any machine from two cores up.

Ray starts a task only when its whole reservation is free, and a reading task keeps its reservation until its output is
taken. If workers and readers could hold every CPU, the stage between them would never start and the run would hang. So
each node always has room for one reading and one preparing task, however many workers it has: any nodes that are left
can feed the workers that are left.

A CPU worker reserves whole CPUs, or an equal part of one if there are more workers than CPUs, plus the smallest unit
that Ray counts: the workers that fit never fill a node, and no further worker fits into the rest. GPU workers are
limited by a node's GPUs; their CPUs follow from the node with the fewest CPUs per GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.options import JobOptions

READ_SHARE, PREPARE_SHARE = 0.25, 0.75  # of the CPU left to the CPU stages
UNITS = 10_000  # per CPU: the smallest amount that Ray counts


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Reservations per task and actor, and sizes that follow from the hardware.

    Attributes:
        device: `cuda` or `cpu`.
        workers: how many actors, (min, max); max is None for as many as there is work and room for.
        threads: torch threads per CPU worker.
    """

    device: str
    workers: tuple[int, int | None]
    worker_cpus: float
    worker_gpus: float
    read_cpus: float
    prepare_cpus: float
    threads: int
    batch_size: int


def allot(options: JobOptions, nodes: Iterable[Mapping[str, float]], may_grow: bool = True) -> Resources:
    """Divide the resources of the live nodes (mappings of `CPU`, `GPU`) among the stages.

    If GPUs may join later (`may_grow`), `--device cuda` needs none now: a worker starts on each that joins.

    Raises:
        UsageError: the options ask for workers that don't fit and never will.
        RunError: there is no CPU.
    """
    nodes = list(nodes)
    cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) > 0]
    if not cpus:
        raise RunError("the Ray cluster has no node with a CPU")
    device = _device(options, nodes)
    if device == "cuda":
        slots = _slots(options, nodes, may_grow)
        workers, threads = options.worker_range() or (max(1, sum(slots)), None), 1
        spare = min(1.0, min(cpus) / 2)
        shares = [(node.get("CPU", 0) - spare) / count for node, count in zip(nodes, slots, strict=True) if count]
        worker_cpus = _rounded(max(0.0, min(1.0, *shares, 1.0)))
    else:
        if options.engine.tensor_parallel > 1:
            raise UsageError(f"--tensor-parallel {options.engine.tensor_parallel} needs GPUs, and the device is cpu")
        workers = options.worker_range() or (1, 1)
        # Three quarters of a node's cores, with at least one core left. The last part of each node stays free.
        threads = max(1, int(min(max(cpus) - 1, max(cpus) * 3 / 4) // workers[0]))
        parts = math.ceil((workers[0] + len(cpus)) / sum(cpus))
        worker_cpus = ((threads * UNITS if parts == 1 else UNITS // parts) + 1) / UNITS
        spare = min(1.0, *(_left(node, worker_cpus) for node in cpus))
    return Resources(
        device=device,
        workers=workers,
        worker_cpus=worker_cpus,
        worker_gpus=float(options.engine.tensor_parallel) if device == "cuda" else 0.0,
        read_cpus=_rounded(READ_SHARE * spare),
        prepare_cpus=_rounded(PREPARE_SHARE * spare),
        threads=threads,
        batch_size=options.batch_size or (64 if device == "cuda" else 16),
    )


def _device(options: JobOptions, nodes: Sequence[Mapping[str, float]]) -> str:
    """`cuda` or `cpu`, with `auto` resolved. Raises UsageError if there are only fractions of GPUs."""
    device, offered = options.engine.device, max(node.get("GPU", 0) for node in nodes)
    if device != "cpu" and 0 < offered < 1:
        raise UsageError(
            f"--device {device}: Ray offers {offered:g} of a GPU here, but a worker needs a whole one; start Ray with "
            "--num-gpus 1, or give --device cpu"
        )
    return device if device != "auto" else "cuda" if offered else "cpu"


def _slots(options: JobOptions, nodes: Sequence[Mapping[str, float]], may_grow: bool) -> list[int]:
    """How many GPU workers fit on each node. Raises UsageError if those asked for don't fit."""
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    each, asked = options.engine.tensor_parallel, options.worker_range()
    slots = [count // each for count in gpus]
    if any(gpus) and not any(slots):
        raise UsageError(
            f"--tensor-parallel {each}: a worker needs all its GPUs on one node, and no node has more than {max(gpus)}"
        )
    if not any(gpus) and not may_grow:
        raise UsageError("--device cuda: there is no GPU here, and none can join the Ray that this job starts")
    if asked and asked[0] > sum(slots) and not may_grow:
        raise UsageError(
            f"--workers {options.workers}: the GPUs here are enough for {sum(slots)}, and none can join the Ray that "
            "this job starts"
        )
    return slots


def _left(node: float, worker_cpus: float) -> float:
    """The CPUs left on a node when as many workers as fit are on it."""
    return (round(node * UNITS) % round(worker_cpus * UNITS)) / UNITS


def _rounded(cpus: float) -> float:
    """In Ray's units, rounded down so that sums still fit."""
    return int(cpus * UNITS) / UNITS
