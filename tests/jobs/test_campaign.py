"""Kills and a lost node, on a real cluster and a real store; `python -m tests.campaign` does more of it, at length."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.campaign.campaign import Campaign, Settings
from tests.services import RayCluster, S3Server

DEADLINE = 300.0  # seconds; far more than it takes


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head that does no work, and two nodes."""
    with RayCluster(head_cpus=0) as cluster:
        for _ in range(2):
            cluster.add_node()
        yield cluster


@pytest.fixture(scope="module")
def campaign(s3: S3Server, cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign of one kill of each sort, and one at random."""
    settings = Settings(kills=5, rows=400, first=("child", "actor", "node", "driver"), seed=5)
    campaign = Campaign(settings, tmp_path_factory.mktemp("campaign"), s3, cluster, print)
    campaign.prepare()
    return campaign


@pytest.mark.slow
def test_nothing_is_lost_whatever_is_killed(campaign):
    summary = campaign.run()
    assert summary.kills.total() == 5 and summary.verdicts
    assert summary.sound, (summary.problems, summary.verdicts)


@pytest.mark.slow
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
