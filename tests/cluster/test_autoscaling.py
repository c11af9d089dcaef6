"""The node types of `ray_cluster.yaml` under Ray's own autoscaler, with nodes that are processes of this machine: it
starts them for a job, from zero, and ends them after it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from adafv.worlds.drawn.dataset import rows, write_shards
from tests.services import PROGRAMS, RayCluster, without_ray

ROOT = Path(__file__).parents[2]
TYPES = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]


@pytest.mark.slow
@pytest.mark.nightly
def test_machines_come_for_a_job_and_go_after_it(tmp_path):
    """One with CPUs for what the head has no room for, one with a GPU for the worker, and neither at the end."""
    write_shards(tmp_path / "scenes", rows(2))
    head = int(TYPES["head"]["resources"]["CPU"])
    with RayCluster(head, dashboard=True, types={name: TYPES[name] for name in ("cpu", "gpu")}) as cluster:
        assert [node.get("CPU") for node in cluster.alive()] == [head]
        submit = [str(PROGRAMS / "ray"), "job", "submit", "--address", cluster.dashboard_address]
        # Not by --working-dir: the nodes share one folder for it here, and one would replace it under the other.
        found = json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})
        submit += ["--runtime-env-json", found, "--"]
        program = "from tests.cluster.pretended_gpus import main; main()"
        job = ["--input", str(tmp_path / "scenes"), "--output", str(tmp_path / "out"), "--device", "cuda"]
        job += ["--workers", "1:2", "--max-new-tokens", "4"]
        done = subprocess.run(
            [*submit, sys.executable, "-c", program, *job],
            env=without_ray() | cluster.environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        [line] = [line for line in done.stdout.splitlines() if line.startswith("resources:")]
        before, between, after = json.loads(line.partition(":")[2])
        assert (before["CPU"], before.get("GPU", 0)) == (head, 0)
        assert (between["CPU"], between.get("GPU", 0)) == (head + TYPES["cpu"]["resources"]["CPU"], 0)
        assert after["GPU"] >= 1
        end = time.monotonic() + 300
        while len(cluster.alive()) > 1 and time.monotonic() < end:
            time.sleep(1)
        assert len(cluster.alive()) == 1, "idle machines stay"
    labels = ds.dataset(tmp_path / "out" / "labels").to_table(columns=["id"]).column("id").to_pylist()
    assert len(labels) == len(set(labels)) > 2
