"""Reservations: whatever the hardware, every stage finds room beside the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.resources import allot


def options(**changes) -> JobOptions:
    return JobOptions(input=("i",), output="o", **changes)


def test_two_cores():
    resources = allot(options(), [{"CPU": 2.0}])
    assert (resources.device, resources.workers, resources.worker_cpus, resources.threads) == ("cpu", (1, 1), 1.0, 1)
    assert resources.worker_cpus + resources.read_cpus + resources.prepare_cpus <= 2


@given(st.integers(1, 256), st.integers(1, 4))
def test_cpu_workers_leave_room(cpus, workers):
    resources = allot(options(workers=str(workers)), [{"CPU": float(cpus)}])
    one_each = resources.worker_cpus + resources.read_cpus + resources.prepare_cpus
    assert 0 < one_each <= cpus and resources.threads >= 1
    if cpus > workers:
        assert workers * resources.worker_cpus + resources.read_cpus + resources.prepare_cpus <= cpus


@given(st.lists(st.tuples(st.integers(1, 128), st.integers(1, 16)), min_size=1, max_size=4))
def test_gpu_workers_leave_room_on_every_node(nodes):
    resources = allot(options(), [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes])
    assert resources.device == "cuda" and resources.workers == (sum(gpus for _, gpus in nodes),) * 2
    for cpus, gpus in nodes:
        assert gpus * resources.worker_cpus + resources.read_cpus + resources.prepare_cpus <= cpus


def test_a_head_without_gpus():
    with pytest.raises(UsageError, match="no GPU"):
        allot(options(device="cuda"), [{"CPU": 4.0}])
    resources = allot(options(device="cuda", workers="0004:8"), [{"CPU": 4.0}])
    assert resources.workers == (4, 8) and resources.worker_gpus == 1
    assert allot(options(device="cpu"), [{"CPU": 8.0, "GPU": 1.0}]).device == "cpu"


def test_batch_sizes():
    assert allot(options(), [{"CPU": 2.0}]).batch_size == 16
    assert allot(options(), [{"CPU": 8.0, "GPU": 1.0}]).batch_size == 32
    assert allot(options(batch_size=3), [{"CPU": 2.0}]).batch_size == 3


def test_a_cluster_without_cpus():
    with pytest.raises(UsageError, match="no node"):
        allot(options(), [{}])
