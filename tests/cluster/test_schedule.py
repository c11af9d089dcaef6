"""The schedules without Kubernetes: cron's and systemd's files, and a night that is submitted for real, by the page's
words, to a Ray cluster of three nodes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from adafv.worlds.drawn.dataset import rows, write_shards
from tests.services import PROGRAMS, RayCluster, without_ray

ROOT = Path(__file__).parents[2]
SCHEDULE = ROOT / "cluster" / "schedule"
PAGE = (ROOT / "docs" / "cluster.md").read_text()
NIGHT = "/home/ubuntu/adafv/cluster/schedule/night"


def test_all_schedules_call_the_same_at_the_same_hour():
    [line] = [line for line in (SCHEDULE / "crontab").read_text().splitlines() if line[:1].isdigit()]
    assert line.split()[:6] == ["0", "22", "*", "*", "*", NIGHT]
    for name in ("crontab", "adafv-night.service"):
        assert "RAY_AUTH_MODE=token" in (SCHEDULE / name).read_text(), "the cluster of ray_cluster.yaml wants a token"
    assert f"ExecStart={NIGHT}\n" in (SCHEDULE / "adafv-night.service").read_text()
    assert "OnCalendar=*-*-* 22:00:00 UTC\n" in (SCHEDULE / "adafv-night.timer").read_text()
    [manifest] = yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "cronjob.yaml").read_text())
    assert (manifest["spec"]["schedule"], manifest["spec"]["timeZone"]) == ("0 22 * * *", "Etc/UTC")
    assert os.access(SCHEDULE / "night", os.X_OK)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    """With the paths of this machine: it looks whether the program is there."""
    for name in ("adafv-night.service", "adafv-night.timer"):
        text = (SCHEDULE / name).read_text().replace(NIGHT, str(SCHEDULE / "night"))
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("adafv-night.service", "adafv-night.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "adafv-night" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(
    ("now", "again", "name"),
    [
        ("2026-11-22 22:00", [], "night-2026-11-22"),
        ("2026-11-23 06:30", [], "night-2026-11-22"),  # made up for by systemd: the night of the 23rd is still to come
        ("2026-11-23 09:00", ["again"], "night-2026-11-22-again"),
        ("2026-11-23 20:00", [], "night-2026-11-23"),  # by hand: cron's, two hours later, is refused
    ],
)
def test_a_night_has_the_name_of_the_evening_on_which_it_was_due(tmp_path, now, again, name):
    at_that_time = f'back=${{2:-}}; exec {shutil.which("date")} --date="{now} ${{back#--date=}}" "$1"'
    programs = {"ray": 'echo "$@"', "date": at_that_time}
    for program, text in programs.items():
        (tmp_path / program).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / program).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(SCHEDULE / "night"), *again], env=environment, capture_output=True, text=True, check=True
    )
    assert f"--submission-id {name} " in done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head and two more nodes, started where the environment is active: a job's `python` is that of its Ray."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
        cluster = stack.enter_context(RayCluster(dashboard=True))
        for _ in range(2):
            cluster.add_node()
        yield cluster


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone: what is committed, and nothing else."""
    folder = tmp_path_factory.mktemp("page") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def run(command: str, clone: Path, cluster: RayCluster) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, in the clone's folder, with its environment active."""
    environment = without_ray() | cluster.environment | {"RAY_ADDRESS": cluster.dashboard_address}
    environment |= {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=clone, env=environment, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip


def page(heading: str) -> str:
    """The commands of the first block below a heading of the page."""
    found = re.search(rf"^## {heading}$.*?^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def labelled(output: Path) -> int:
    ids = ds.dataset(output / "labels").to_table(columns=["id"]).column("id").to_pylist()
    assert len(ids) == len(set(ids))
    return len(ids)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_by_the_pages_words(clone, cluster):
    """The commands that the page gives for any cluster, but for those that start it."""
    start, _, rest = page("Any Ray cluster").partition("# from here on")
    assert "export RAY_AUTH_MODE=token" in start, "Ray starts nodes that want a token, and commands that have none"
    commands = rest.partition("\n")[2]
    assert "ray job submit" in commands
    done = run(commands, clone, cluster)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert labelled(clone / "build" / "labels") > 4 and "rows done before" not in done.stdout
    assert "succeeded" in done.stdout


@pytest.mark.slow
@pytest.mark.nightly
def test_a_night_runs_once_and_a_failed_one_again_by_another_name(clone, cluster, tmp_path):
    scenes, nightly = tmp_path / "scenes", clone / "cluster" / "nightly.yaml"
    options = {"input": str(scenes), "output": str(tmp_path / "out"), "max-new-tokens": 4}
    nightly.write_text(yaml.safe_dump(options))
    failed = run("cluster/schedule/night", clone, cluster)
    assert failed.returncode == 1 and f"{scenes}: there is nothing" in failed.stdout
    write_shards(scenes, rows(1))
    refused = run("cluster/schedule/night", clone, cluster)
    assert refused.returncode != 0 and re.search(r"night-[\d-]+ already exists", refused.stdout + refused.stderr)
    assert not (tmp_path / "out").exists()
    again = run("cluster/schedule/night again", clone, cluster)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert labelled(tmp_path / "out") > 1


@pytest.mark.slow
@pytest.mark.nightly
def test_kuberays_questions_are_answered(cluster):
    """The probes of rayjob.yaml, which bring no token, and what KubeRay has a worker wait for."""
    [manifest] = yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "rayjob.yaml").read_text())
    [head] = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    with urllib.request.urlopen(
        cluster.agent_address + head["readinessProbe"]["httpGet"]["path"], timeout=30
    ) as answer:
        assert answer.status == 200
    command = [str(PROGRAMS / "ray"), "health-check", "--address", cluster.environment["RAY_ADDRESS"]]
    subprocess.run(command, env=without_ray() | cluster.environment, check=True)
