"""Kills and a lost node, on a real cluster and a real store; `python -m tests.campaign` does more of it, at length."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobs.label import main
from tests.campaign.campaign import Campaign, Settings
from tests.campaign.data import check
from tests.forking import forking_jobs
from tests.services import RayCluster, S3Server

ROWS = [
    {"id": id, "prompt": "p", "answer": "a", "finish_reason": "stop", "kept_indices": [1, 2]} for id in ("x", "y", "z")
]
DEADLINE = 300.0  # seconds; far more than it takes


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (ROWS[::-1], {}),
        (ROWS[1:], {"lost": ("x",)}),
        ([*ROWS, ROWS[2]], {"twice": ("z",)}),
        ([*ROWS[:2], ROWS[2] | {"kept_indices": [1, 3]}], {"differing": ("z",)}),
        ([ROWS[0] | {"answer": ""}, *ROWS], {"twice": ("x",), "differing": ("x",)}),
        ([*ROWS, ROWS[0] | {"id": "w"}], {"unknown": ("w",)}),
    ],
)
def test_the_check_finds_what_is_wrong(found, wrong):
    verdict = check(found, ROWS)
    names = ("lost", "twice", "differing", "unknown")
    assert {name: getattr(verdict, name) for name in names} == dict.fromkeys(names, ()) | wrong
    assert verdict.sound == (not wrong) and verdict.rows == len(found)


@pytest.fixture(scope="module")
def cluster(forks: None) -> Iterator[RayCluster]:
    """A head that does no work, and two nodes, whose workers' children are forked."""
    with RayCluster(head_cpus=0, variables=forking_jobs()) as cluster:
        for _ in range(2):
            cluster.add_node()
        yield cluster


@pytest.fixture(scope="module")
def campaign(ray_local: None, s3: S3Server, cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign of one kill of each sort, all on one output. The undisturbed run is one of this process."""
    settings = Settings(kills=4, rows=300, first=("driver", "child", "node", "actor"), seed=5, mean_seconds=1)
    campaign = Campaign(settings, tmp_path_factory.mktemp("campaign"), s3, cluster, print)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3.environment.items():
            patched.setenv(name, value)
        campaign.prepare(main)
    return campaign


@pytest.mark.slow(150)
def test_nothing_is_lost_whatever_is_killed(campaign):
    summary = campaign.run()
    assert summary.kills.total() == 4 and summary.verdicts
    assert summary.sound, (summary.problems, summary.verdicts)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_job_outlives_the_node_that_labels(campaign, cluster):
    """For good: the worker is started again on the node that is left, and what it had in hand is done again."""
    job = campaign.start("removed")
    end = time.monotonic() + DEADLINE
    while not job.rows:
        assert job.status is None and time.monotonic() < end, job.said
        time.sleep(0.1)
    [node] = [node for node in cluster.nodes if any("MapWorker" in name for name in node.workers().values())]
    cluster.kill_node(node)
    assert job.status is None, "it had ended too early for this test"
    assert job.process.wait(timeout=DEADLINE) == 0, job.said
    verdict = campaign.check("removed")
    assert verdict.sound and not job.rejected, verdict
