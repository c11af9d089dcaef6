"""What several parts' tests share: one Ray, one real S3 server, one small model."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: on two cores that Ray shares, small models with two spinning threads are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # on a busy machine a node may take longer than Ray's 30 s

import pytest
from hypothesis import HealthCheck, settings

from tests import forking
from tests.forking import fork_server
from tests.services import S3_SECRET as S3_SECRET
from tests.services import S3Server

# Hypothesis fails an example that takes longer than usual. On shared cores any may.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: two processes share them, and one would wait for a long one at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        for mark in item.iter_markers("slow"):
            seconds[item.path] += mark.args[0] if mark.args else 20
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def forks() -> Iterator[None]:
    """A server that forks jobs' children (see tests/forking.py), for those that `use_server`."""
    with tempfile.TemporaryDirectory(prefix="forks") as folder, fork_server(Path(folder)) as path:
        os.environ[forking.SERVER] = str(path)
        yield
        del os.environ[forking.SERVER]


@pytest.fixture(scope="session")
def ray_local(forks: None) -> Iterator[None]:
    """Ray on two CPUs, whatever the machine has, for all the jobs of this process. Their children are forked, and the
    next job finds the processes that the last one's tasks ran in, which Ray would end after a second."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join(filter(None, [str(forking.REPOSITORY), os.environ.get("PYTHONPATH")]))
    ray.init(
        "local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "tests.forking.use_server",
            "env_vars": {"PYTHONPATH": path},
        },
        _system_config={"num_workers_soft_limit": 6},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-NeXT with random weights; its words are w0 to w199."""
    from tests.tiny_models import build

    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No further processes for a benchmark, and one thread: each process would import torch anew."""
    import torch

    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
