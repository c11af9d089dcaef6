"""Reservations: whatever the hardware, every stage finds room beside the others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adafv.pipeline.control.resources import Resources, allot
from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.options import JobOptions


def options(**changes) -> JobOptions:
    return JobOptions.of(input=("i",), output="o", **changes)


def bits(cpus: float) -> int:
    """As Ray counts them."""
    assert cpus * 10_000 == pytest.approx(round(cpus * 10_000))
    return round(cpus * 10_000)


def workers_on(node: Mapping[str, float], resources: Resources) -> int:
    """How many workers fit on a node on which nothing else is."""
    cpus, gpus = bits(node["CPU"]) // bits(resources.worker_cpus), int(node.get("GPU", 0))
    return cpus if resources.device == "cpu" else min(cpus, gpus)


def test_two_cores():
    resources = allot(options(), [{"CPU": 2.0}])
    assert (resources.device, resources.workers, resources.threads) == ("cpu", (1, 1), 1)
    assert (resources.worker_cpus, resources.read_cpus, resources.prepare_cpus) == (1.0001, 0.2499, 0.7499)


def test_threads():
    """Three quarters of the largest node, shared among the workers."""
    assert allot(options(), [{"CPU": 2.0}, {"CPU": 16.0}]).threads == 12
    assert allot(options(workers="5:8"), [{"CPU": 16.0}]).threads == 2
    assert allot(options(workers="8"), [{"CPU": 2.0}]).threads == 1


CPUS, GPUS = st.sampled_from([1.0, 2.0, 3.0, 4.0, 16.0, 64.0, 256.0]), st.sampled_from([1.0, 2.0, 8.0])
CLUSTERS = st.lists(st.fixed_dictionaries({"CPU": CPUS}, optional={"GPU": GPUS}), min_size=1, max_size=5)


@given(CLUSTERS, st.none() | st.integers(1, 16), st.integers(0, 16), st.sampled_from(["auto", "cpu"]))
@example([{"CPU": 2.0}, {"CPU": 2.0}], 3, 0, "cpu")  # two workers filled one node, and the other was lost
@example([{"CPU": 2.0}], 2, 0, "cpu")
def test_one_reader_and_one_preparing_task_fit_on_every_node(nodes, least, more, device):
    """Beside as many workers as fit on it, were there ever so many: so also when any other nodes are lost, and all
    workers come to this one. Those that `least` demands all find room while no node is lost, and where nodes are alike,
    some of them on each."""
    workers = None if least is None else f"{least}:{least + more}"
    resources = allot(options(workers=workers, device=device), nodes)
    assert resources.threads >= 1 and min(resources.read_cpus, resources.prepare_cpus) > 0
    room = [workers_on(node, resources) for node in nodes]
    for node, count in zip(nodes, room, strict=True):
        taken = count * bits(resources.worker_cpus) + bits(resources.read_cpus) + bits(resources.prepare_cpus)
        assert taken <= bits(node["CPU"])
        if resources.device == "cpu" and node["CPU"] == max(node["CPU"] for node in nodes):
            assert count >= 1
    if resources.device == "cpu":
        assert sum(room) >= resources.workers[0]
    else:
        assert room == [int(node.get("GPU", 0)) for node in nodes]


def test_a_head_without_gpus():
    for workers in (None, "2"):
        with pytest.raises(UsageError, match="no GPU"):
            allot(options(device="cuda", workers=workers), [{"CPU": 4.0}], may_grow=False)
    assert allot(options(device="cuda"), [{"CPU": 4.0}]).workers == (1, None)
    assert allot(options(device="cuda"), [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]).workers == (4, None)
    resources = allot(options(device="cuda", workers="0004:8"), [{"CPU": 4.0}])
    assert resources.workers == (4, 8) and resources.worker_gpus == 1
    assert allot(options(device="cpu"), [{"CPU": 8.0, "GPU": 1.0}]).device == "cpu"


def test_a_worker_may_have_several_gpus_of_one_node():
    spread = options(device="cuda", backend="vllm", tensor_parallel=4)
    nodes = [{"CPU": 4.0}, {"CPU": 33.0, "GPU": 8.0}, {"CPU": 9.0, "GPU": 2.0}]
    resources = allot(spread, nodes)
    assert (resources.workers, resources.worker_gpus, resources.worker_cpus) == ((2, None), 4, 1)
    assert allot(spread, nodes[:1]).workers == (1, None)
    for may_grow in (False, True):  # Ray would look for such a node for ever
        with pytest.raises(UsageError, match=r"--tensor-parallel 4: .* on one node, and no node has more than 2"):
            allot(spread, [*nodes[2:] * 2, nodes[0]], may_grow=may_grow)
    with pytest.raises(UsageError, match="needs GPUs, and the device is cpu"):
        allot(options(backend="vllm", tensor_parallel=2), nodes[:1])
    with pytest.raises(UsageError, match="--tensor-parallel is 2; it must be 1 with backend 'transformers'"):
        options(tensor_parallel=2)


def test_more_workers_than_gpus():
    """Of a Ray that may grow they are waited for."""
    node = {"CPU": 32.0, "GPU": 8.0}
    with pytest.raises(UsageError, match="--workers 16: the GPUs here are enough for 8"):
        allot(options(workers="16"), [node], may_grow=False)
    assert allot(options(workers="8:16"), [node], may_grow=False).workers == (8, 16)
    assert allot(options(workers="16"), [node]).workers == (16, 16)


def test_a_part_of_a_gpu():
    node = {"CPU": 8.0, "GPU": 0.5}
    for device in ("auto", "cuda"):
        with pytest.raises(UsageError, match=f"--device {device}: Ray offers 0.5 of a GPU"):
            allot(options(device=device), [node, node, {"CPU": 8.0}])
    assert allot(options(device="cpu"), [node]).device == "cpu"
    resources = allot(options(), [node, {"CPU": 8.0, "GPU": 1.5}])
    assert (resources.device, resources.workers) == ("cuda", (1, None))


def test_batch_sizes():
    assert allot(options(), [{"CPU": 2.0}]).batch_size == 16
    assert allot(options(), [{"CPU": 8.0, "GPU": 1.0}]).batch_size == 64
    assert allot(options(batch_size=3), [{"CPU": 2.0}]).batch_size == 3


def test_a_cluster_without_cpus():
    for nodes in ([], [{}], [{"GPU": 1.0}]):
        with pytest.raises(RunError, match="no node"):
            allot(options(), nodes)
