"""Workers that aren't there yet, and workers that are lost: what a job says, and that it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import ray
import ray.data

from adafv.pipeline.control import roster as module
from adafv.pipeline.control.roster import Roster, WorkerStatus, worker_status
from adafv.pipeline.control.session import ray_session
from adafv.pipeline.limits import Limits
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.tally import Tally
from tests.forking import forking_jobs
from tests.pipeline.inputs import write_images, write_jsonl
from tests.services import RayCluster

REPOSITORY = Path(__file__).parents[3]


def actor(id: str, state: str, pid: int = 7, name: str = "MapWorker(MapBatches(LabelWorker))") -> dict:
    return {"ActorID": id, "State": state, "Pid": pid, "ActorClassName": name}


def test_status_is_of_workers_alone():
    actors = [
        actor("a", "ALIVE"), actor("b", "PENDING_CREATION", 0), actor("c", "RESTARTING"), actor("d", "DEAD"),
        actor("e", "ALIVE", name="AutoscalingCoordinator"),
    ]  # fmt: skip
    assert worker_status(actors, "LabelWorker", (), 2.0, 1.0) == WorkerStatus(frozenset({("a", 7)}), 3, 2.0, 1.0)


def test_those_that_rows_come_from_are_workers_by_any_name():
    actors = [actor("a", "ALIVE", name=""), actor("b", "DEAD", name=""), actor("c", "ALIVE", name="")]
    seen = worker_status(actors, "LabelWorker", ("a", "b", "z"), 2.0, 1.0)
    assert seen == WorkerStatus(frozenset({("a", 7)}), 1, 2.0, 1.0, frozenset({"z"}), frozenset({"b"}))


class Echo:
    """Says where it works. With all but its first row it waits until there is a file."""

    def __init__(self, marker: Path) -> None:
        self._marker, self._first = marker, True

    def __call__(self, table: pa.Table) -> pa.Table:
        while not self._first and not self._marker.exists():
            time.sleep(0.05)
        self._first = False
        actor, pid = ray.get_runtime_context().get_actor_id(), os.getpid()
        return pa.table({"actor": [actor] * table.num_rows, "pid": [pid] * table.num_rows})


def test_workers_of_a_pool_are_found_by_the_name_of_their_class(ray_local, tmp_path):
    """Also one that was killed and started again by Ray, and before it has delivered anything."""
    with ray_session():
        roster, other = Roster(0, Echo.__name__, lambda: ()), Roster(0, "LabelWorker", lambda: ())
        rows = ray.data.from_items([{"n": n} for n in range(8)], override_num_blocks=8)
        pool = rows.map_batches(
            Echo, fn_constructor_args=(tmp_path / "marker",), batch_format="pyarrow", batch_size=1, num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=1),
        )  # fmt: skip
        batches = iter(pool.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0))
        [first] = next(batches).to_pylist()
        seen = roster.status()
        assert seen.alive == {(first["actor"], first["pid"])} and seen.wanted == 1
        assert not other.status().wanted
        os.kill(first["pid"], signal.SIGKILL)
        end = time.monotonic() + 300
        while not (again := roster.status()).alive or again == seen:
            assert time.monotonic() < end
            time.sleep(0.1)
        [(actor, pid)] = again.alive
        assert actor == first["actor"] and pid != first["pid"], "started again"
        (tmp_path / "marker").touch()
        assert len(list(batches)) == 7, "and the pool goes on"


@pytest.mark.parametrize("broken", ["no names", "no list", "an empty list"])
def test_where_workers_are_not_found_a_warning_says_so_and_cost_goes_on(ray_local, broken, monkeypatch, caplog):
    """Ray's list as another version might have it: without names, without the workers, or not at all."""
    listed = [actor("a", "ALIVE", name="")] if broken == "no names" else []
    monkeypatch.setattr(module, "actors", lambda job: listed if broken != "no list" else {}["gone"])
    tally = Tally(workers={"w/7": 900.0}, actors={"w/7": "a"})
    with ray_session():
        roster = Roster(0, "LabelWorker", tally.actors.values)
        for now in (910.0, 920.0):
            seen = roster.status()
            tally.note_gone(seen.alive, now, seen.unlisted)
    warnings = [message for message in caplog.messages if "keep adding to the cost" in message]
    assert len(warnings) == (0 if broken == "no names" else 1)
    assert tally.worker_seconds(1000.0) == 100.0 and not tally.gone
    assert Limits(0.1, None, Tariff(3.6)).spent(tally, 100.0, 1000.0) == "max-cost"


class Job:
    """A job with simulated workers, in a process of its own."""

    def __init__(self, folder: Path, cluster: RayCluster, rows: int, *options: str) -> None:
        write_images(folder)
        each = [{"id": f"r{i}", "image": "plain.jpg", "question": "w1"} for i in range(rows)]
        self.output, self._log = folder / "out", folder / "log"
        arguments = ["--input", write_jsonl(folder / "rows.jsonl", each), "--output", self.output, "--run-id", "r"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.pipeline.simulated_job", *map(str, arguments), *options],
                cwd=REPOSITORY, env=os.environ | cluster.environment, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + 300
        while not until():
            assert self.process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.2)

    def finish(self, status: int = 0) -> dict:
        """Its record."""
        try:
            assert self.process.wait(timeout=300) == status, self.said
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs; it said\n{self.said}") from None
        return json.loads((self.output / "runs/r.json").read_text())

    def labels(self) -> Counter[str]:
        return Counter(ds.dataset(self.output / "labels").to_table(columns=["id"]).column("id").to_pylist())


@pytest.fixture(scope="module")
def cluster(forks: None) -> Iterator[RayCluster]:
    with RayCluster(variables=forking_jobs()) as cluster:
        yield cluster


PRICES = """
- {device: A10G, usd_per_hour: 36, date: 2026-11-22, source: made up}
- {device: H100, usd_per_hour: 360, date: 2026-11-22, source: made up}
"""


@pytest.mark.slow
def test_a_job_waits_for_gpus_and_outlives_their_loss(cluster, tmp_path):
    """No GPU at first; then one of a kind, which is taken back; then one of another kind."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    job = Job(tmp_path, cluster, 160, "--device", "cuda", "--batch-size", "8", "--prices", f"{tmp_path}/prices.yaml")
    try:
        job.wait(lambda: "waiting for a GPU worker: 0 of 1 there after 0:00:0" in job.said)
        assert "the cluster has 0 GPUs, 0 of them free" in job.said and "device cuda, workers: 1 or more" in job.said
        first = cluster.add_node(gpus=1, ADAFV_SIMULATED_DEVICE="A10G", ADAFV_SIMULATED_RATE="4")
        job.wait(lambda: "/160 rows (" in job.said.rpartition("waiting for")[2] and " 0/160" not in job.said[-200:])
        cluster.kill_node(first)
        job.wait(lambda: "waiting for a GPU worker: 0 of 1" in job.said.rpartition("/160 rows (")[2])
        second = cluster.add_node(gpus=1, ADAFV_SIMULATED_DEVICE="H100")
        record = job.finish()
        cluster.kill_node(second)
    finally:
        job.process.kill()
    assert job.labels() == Counter(f"r{i}" for i in range(160))
    assert record["start"]["workers"] == 2 and record["start"]["workers_gone"] == 1
    assert {each["device"]: each["price_per_hour"] for each in record["hardware"]["devices"]} == {
        "A10G": 36,
        "H100": 360,
    }
    rows = ds.dataset(job.output / "labels").to_table(columns=["worker", "cost_usd", "gpu_seconds"]).to_pylist()
    assert {round(row["cost_usd"] / row["gpu_seconds"], 6) for row in rows} == {0.01, 0.1}
    cost = record["cost"]
    assert cost["worker_seconds"] < record["throughput"]["seconds"], "nobody was held while the job waited"
    assert cost["usd_attributed"] < cost["usd"] < cost["worker_seconds"] * 0.1


@pytest.mark.slow
def test_the_pool_grows_with_the_queue(cluster, tmp_path):
    """Ray Data by itself would stay with the least number for ever: it waits for longer queues than ours."""
    (tmp_path / "held").mkdir()
    node = cluster.add_node(gpus=2, ADAFV_HELD=str(tmp_path / "held"))
    job = Job(tmp_path, cluster, 200, "--device", "cuda", "--batch-size", "4", "--workers", "1:2")
    try:
        job.wait(lambda: len([*(tmp_path / "held").iterdir()]) == 2)
        (tmp_path / "held" / "go").touch()
        record = job.finish()
    finally:
        job.process.kill()
        cluster.kill_node(node)
    assert job.labels() == Counter(f"r{i}" for i in range(200))
    assert record["start"]["workers"] == 2


@pytest.mark.slow
def test_a_limit_also_ends_a_run_whose_gpus_never_come(cluster, tmp_path):
    """Rows are prepared, and there is nobody to take them."""
    job = Job(tmp_path, cluster, 8, "--device", "cuda", "--max-hours", "0.001")
    try:
        record = job.finish(status=4)
    finally:
        job.process.kill()
    assert (record["status"], record["stopped_by"], record["counts"]["left"]) == ("stopped", "max-hours", 8)
    assert "KeyboardInterrupt" not in job.said
