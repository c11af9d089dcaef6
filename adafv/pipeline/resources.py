"""Who gets which CPUs and GPUs, so that no stage starves another on any machine from two cores up.

Ray starts a task only where its whole reservation is free, and a reading task keeps its reservation while its output
waits to be taken. If workers and readers could hold every CPU, the stage between them would never start and the run
would hang without a word. So one CPU of each node (a part of it, on a machine with one) is left to the CPU stages, and
is divided such that one reader and one preparing task always fit beside each other. GPU actors reserve CPU as well:
what they reserve is limited by the node that has the fewest CPUs per GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions

READ_SHARE, PREPARE_SHARE = 0.25, 0.75  # of the CPU that is left to the CPU stages; together 1


@dataclass(frozen=True)
class Resources:
    """Reservations per task and actor, and sizes that follow from the hardware.

    Attributes:
        device: `cuda` or `cpu`.
        workers: how many actors, (least, most).
        threads: of torch, per CPU worker.
    """

    device: str
    workers: tuple[int, int]
    worker_cpus: float
    worker_gpus: float
    read_cpus: float
    prepare_cpus: float
    threads: int
    batch_size: int


def allot(options: JobOptions, nodes: Iterable[Mapping[str, float]]) -> Resources:
    """Divide the resources of the nodes that are alive (each a mapping of `CPU`, `GPU`) among the stages."""
    nodes = [node for node in nodes if node.get("CPU", 0) > 0 or node.get("GPU", 0) > 0]
    if not nodes:
        raise UsageError("the Ray cluster has no node with a CPU")
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    device = options.device if options.device != "auto" else ("cuda" if gpus else "cpu")
    spare = min(1.0, min(node["CPU"] for node in nodes if node.get("CPU", 0) > 0) / 2)
    if device == "cuda":
        if not gpus and options.workers is None:
            raise UsageError("--device cuda: the cluster has no GPU; give --workers MIN:MAX where GPU nodes come later")
        workers = options.worker_range() or (gpus, gpus)
        shares = [(node.get("CPU", 0) - spare) / node["GPU"] for node in nodes if node.get("GPU", 0) > 0]
        worker_cpus, threads = max(0.0, min(1.0, *shares, 1.0)), 1
    else:
        workers = options.worker_range() or (1, 1)
        threads = _cpu_threads(max(node.get("CPU", 0) for node in nodes), workers[0], spare)
        worker_cpus = float(threads) if threads * workers[0] + spare <= sum(n.get("CPU", 0) for n in nodes) else spare
    return Resources(
        device=device,
        workers=workers,
        worker_cpus=_rounded(worker_cpus),
        worker_gpus=1.0 if device == "cuda" else 0.0,
        read_cpus=_rounded(READ_SHARE * spare),
        prepare_cpus=_rounded(PREPARE_SHARE * spare),
        threads=threads,
        batch_size=options.batch_size or (32 if device == "cuda" else 16),
    )


def _cpu_threads(cpus: float, workers: int, spare: float) -> int:
    """Three quarters of a node's cores for its workers, at least one left over."""
    return max(1, int(min(cpus - spare, cpus * 3 / 4) // workers))


def _rounded(cpus: float) -> float:
    """Ray counts in units of 1/10,000; rounded down, so that a sum that should fit does."""
    return int(cpus * 10_000) / 10_000
