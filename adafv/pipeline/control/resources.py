"""Who gets which CPUs and GPUs, so that no stage starves another on any machine from two cores up.

Ray starts a task only where its whole reservation is free, and a reading task keeps its reservation while its output
waits to be taken. If workers and readers could hold every CPU, the stage between them would never start and the run
would hang without a word. So on every node, however many workers have come to it, one reading and one preparing task
fit beside each other: whichever nodes are lost, those that are left can feed the workers that are left.

On CPUs a worker reserves a whole number of them, or an even part of one where there are more workers than CPUs, and the
least bit that Ray counts more: so as many workers as fit never fill a node, and into what they leave no further one
fits. GPU workers are limited by the GPUs of a node. What they reserve besides is limited by the node that has the
fewest CPUs per GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.options import JobOptions

READ_SHARE, PREPARE_SHARE = 0.25, 0.75  # of the CPU that is left to the CPU stages; together 1
BITS = 10_000  # of a CPU: the least that Ray counts


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Reservations per task and actor, and sizes that follow from the hardware.

    Attributes:
        device: `cuda` or `cpu`.
        workers: how many actors, (least, most); None for as many as there is work and room for.
        threads: of torch, per CPU worker.
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
    """Divide the resources of the nodes that are alive (each a mapping of `CPU`, `GPU`) among the stages.

    Where GPUs may come later (`may_grow`), `--device cuda` needs none now: a worker starts on each that comes.

    Raises:
        UsageError: the options ask for workers that these nodes have no room for, and none that may come.
        RunError: there is no CPU.
    """
    nodes = list(nodes)
    cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) > 0]
    if not cpus:
        raise RunError("the Ray cluster has no node with a CPU")
    device = _device(options, nodes)
    if device == "cuda":
        places = _places(options, nodes, may_grow)
        workers, threads = options.worker_range() or (max(1, sum(places)), None), 1
        spare = min(1.0, min(cpus) / 2)
        shares = [(node.get("CPU", 0) - spare) / count for node, count in zip(nodes, places, strict=True) if count]
        worker_cpus = _rounded(max(0.0, min(1.0, *shares, 1.0)))
    else:
        if options.engine.tensor_parallel > 1:
            raise UsageError(f"--tensor-parallel {options.engine.tensor_parallel} needs GPUs, and the device is cpu")
        workers = options.worker_range() or (1, 1)
        threads = _cpu_threads(max(cpus), workers[0])
        worker_cpus = _cpus_per_worker(cpus, workers[0], threads)
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


def _whole_gpus(node: Mapping[str, float]) -> int:
    return int(node.get("GPU", 0))  # a node may offer part of one, which no worker can use


def _device(options: JobOptions, nodes: Sequence[Mapping[str, float]]) -> str:
    """`cuda` or `cpu`, which `auto` stands for. Raises UsageError where parts of GPUs are all there is."""
    device, offered = options.engine.device, max(node.get("GPU", 0) for node in nodes)
    if device != "cpu" and 0 < offered < 1:
        raise UsageError(
            f"--device {device}: Ray offers {offered:g} of a GPU here, and a worker takes a whole one; start Ray with "
            "--num-gpus 1, or give --device cpu"
        )
    return device if device != "auto" else "cuda" if offered else "cpu"


def _places(options: JobOptions, nodes: Sequence[Mapping[str, float]], may_grow: bool) -> list[int]:
    """For how many GPU workers each node has room. Raises UsageError where those asked for have none."""
    gpus, each, asked = [_whole_gpus(node) for node in nodes], options.engine.tensor_parallel, options.worker_range()
    places = [count // each for count in gpus]
    if any(gpus) and not any(places):
        raise UsageError(
            f"--tensor-parallel {each}: a worker has all of its GPUs on one node, and no node has more than {max(gpus)}"
        )
    if not any(gpus) and not may_grow:
        raise UsageError("--device cuda: there is no GPU here, and none will join the Ray that this job starts")
    if asked and asked[0] > sum(places) and not may_grow:
        raise UsageError(
            f"--workers {options.workers}: the GPUs here are enough for {sum(places)}, and none will join the Ray that "
            "this job starts"
        )
    return places


def _cpu_threads(cpus: float, workers: int) -> int:
    """Three quarters of a node's cores for its workers, at least one left over."""
    return max(1, int(min(cpus - 1, cpus * 3 / 4) // workers))


def _cpus_per_worker(nodes: Sequence[float], workers: int, threads: int) -> float:
    """What one of `workers` reserves of nodes with so many CPUs: all of them find room, if need be on parts of CPUs."""
    parts = math.ceil((workers + len(nodes)) / sum(nodes))  # for each node's last part is left
    return ((threads * BITS if parts == 1 else BITS // parts) + 1) / BITS


def _left(node: float, worker_cpus: float) -> float:
    """The CPUs of a node that are left when as many workers as fit have come to it."""
    return (round(node * BITS) % round(worker_cpus * BITS)) / BITS


def _rounded(cpus: float) -> float:
    """In Ray's units; rounded down, so that a sum that should fit does."""
    return int(cpus * BITS) / BITS
