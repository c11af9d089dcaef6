"""What Prometheus reads of a run is what the run's record says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import ray.util.metrics
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from adafv.pipeline import schema
from adafv.pipeline.record import metrics
from adafv.pipeline.record.metrics import COUNTERS, GAUGES, HISTOGRAMS, STAGES, Metrics, figures
from adafv.pipeline.record.tally import SUMMED, Tally
from adafv.pipeline.rejects import ERRORS
from tests.forking import forking_jobs
from tests.pipeline.inputs import write_images, write_jsonl
from tests.services import RayCluster, descendants, send, title

REPOSITORY = Path(__file__).parents[3]
LABELLED = 40


class Recording:
    """Ray's own metrics, which also keep what they are given: Ray has no way to read them back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: Counter[tuple[str, str | None]] = Counter()
        self.observed: list[tuple[str, float]] = []
        recording = self

        class Counting(ray.util.metrics.Counter):
            def _record(self, value: float, tags: dict[str, str] | None = None) -> None:
                super()._record(value, tags)
                assert value >= 0
                recording.sums[self._name, (tags or {}).get(COUNTERS[self._name].tag)] += value

        class Observing(ray.util.metrics.Histogram):
            def observe(self, value: float, tags: dict[str, str]) -> None:
                super().observe(value, tags)
                recording.observed.append((tags["stage"], value))

        monkeypatch.setattr(metrics, "Counter", Counting)
        monkeypatch.setattr(metrics, "Histogram", Observing)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    return Recording(monkeypatch)


counts = st.integers(0, 1000)
gains = st.builds(
    dict, labelled=counts, truncated=counts, batches=counts, worker_seconds=st.integers(-5, 20),
    rejected=st.dictionaries(st.sampled_from(sorted(ERRORS)), counts),
    totals=st.dictionaries(st.sampled_from(SUMMED), counts),
)  # fmt: skip


@given(st.lists(gains, max_size=5), st.sampled_from([None, 0.0, 2.5]))
def test_the_counters_are_the_tally_however_often_they_are_published(steps, price):
    with pytest.MonkeyPatch.context() as patch:
        recording = Recording(patch)
        published, tally, held, most = Metrics("r", "none", 10), Tally(), 0, 0
        for step in steps:
            tally.labelled += step["labelled"]
            tally.truncated += step["truncated"]
            tally.batches += step["batches"]
            tally.rejected.update(step["rejected"])
            tally.totals.update(step["totals"])
            held = max(0, held + step["worker_seconds"])  # a clock that is put back takes some
            most = max(most, held)
            published.publish(tally, held, None if price is None else held * price)
    assert recording.sums == pytest.approx(
        figures(tally, most, None if price is None else most * price) if steps else {}
    )


def test_every_counter_has_a_figure_and_cost_only_where_there_is_a_price():
    assert {name for name, _ in figures(Tally(), 0.0, None)} == {name for name in COUNTERS if "cost" not in name}
    begun = figures(Tally(), 0.0, 2.0)
    assert {name for name, _ in begun} == set(COUNTERS)
    assert {tag for name, tag in begun if name == "adafv_rejects_total"} == set(ERRORS)


def test_rejected_answers_hold_workers_too():
    tally = Tally(totals=Counter(gpu_seconds=2.0), rejected_seconds=3.0)
    assert figures(tally, 9.0, None)["adafv_gpu_seconds_total", None] == 5.0


def test_a_histogram_of_samples_has_one_observation_for_each_label_and_stage(recording):
    label = dict.fromkeys((f"{stage}_ms" for stage in STAGES), 250.0)
    rows = [label, label | {"decode_ms": None}, {"error": "image_empty", "fetch_ms": 5.0}]
    rows.append(dict.fromkeys(label, 0.0) | {"gpu_seconds": 0.0})  # a reused one, which took none
    Metrics("r", "none", 3).observe(pa.Table.from_pylist(rows, schema=schema.RESULTS))
    assert Counter(recording.observed) == Counter({(stage, 0.25): 1 if stage == "decode" else 2 for stage in STAGES})


@pytest.fixture(scope="module")
def cluster(forks: None) -> Iterator[RayCluster]:
    with RayCluster(dashboard=True, variables=forking_jobs()) as cluster:
        yield cluster


@pytest.mark.slow
def test_prometheus_reads_what_the_record_says(tiny_model, tmp_path, cluster):
    """Found as Prometheus finds it, after the job's process has ended: nothing of the last seconds is lost."""
    done, record = label(tiny_model, tmp_path, cluster, "--run-id", "night", "--price-per-hour", "2.5")
    assert done.returncode == 0, done.stderr[-3000:]
    [target, *_] = targets(cluster)
    assert f"metrics: http://{target}/metrics" in done.stderr
    samples = [one for one in scrape(target) if one.labels.get("run_id") == "night"]

    exported = {one.name: one for one in samples}
    histograms = {name + part for name in HISTOGRAMS for part in ("_bucket", "_count", "_sum")}
    assert set(exported) == {f"ray_{name}" for name in {*COUNTERS, *GAUGES, *histograms}}
    assert {one.labels["strategy"] for one in samples} == {"adafv-plus"}
    found = {
        (one.name.removeprefix("ray_"), one.labels.get("error") or one.labels.get("stage")): one.value
        for one in samples if one.name.removeprefix("ray_") in {*COUNTERS, *GAUGES, "adafv_sample_stage_seconds_count"}
    }  # fmt: skip
    labels = ds.dataset(tmp_path / "out/labels").to_table(columns=["finish_reason", "batch_size"]).to_pylist()
    counted, totals, cost = record["counts"], record["totals"], record["cost"]
    assert (counted["labelled"], counted["truncated"]) == (LABELLED, found["adafv_truncated_samples_total", None])
    assert totals["batches"] == round(found["adafv_batches_total", None])
    assert counted["rejected_by_error"] == {"image_not_found": 3, "prompt_empty": 1}
    assert found == pytest.approx({
        ("adafv_planned_rows", None): LABELLED + 4,
        ("adafv_rows_total", None): LABELLED + 4,
        ("adafv_samples_total", None): counted["labelled"],
        ("adafv_truncated_samples_total", None): sum(row["finish_reason"] == "length" for row in labels),
        **{("adafv_rejects_total", error): counted["rejected_by_error"].get(error, 0) for error in ERRORS},
        ("adafv_audited_samples_total", None): 0,
        ("adafv_audited_agreement_total", None): 0,
        ("adafv_batches_total", None): sum(1 / row["batch_size"] for row in labels),
        **{(f"adafv_{name}_total", None): totals[name]
           for name in ("visual_tokens", "kept_tokens", "prompt_tokens", "output_tokens", "gpu_seconds")},
        **{("adafv_stage_seconds_total", stage): totals[f"{stage}_ms"] / 1000 for stage in STAGES},
        **{("adafv_sample_stage_seconds_count", stage): counted["labelled"] for stage in STAGES},
        ("adafv_worker_seconds_total", None): cost["worker_seconds"],
        ("adafv_cost_usd_total", None): cost["usd"],
        ("adafv_attributed_cost_usd_total", None): cost["usd_attributed"],
    }, rel=5e-4, abs=1e-6)  # fmt: skip


def label(
    model: Path, folder: Path, cluster: RayCluster, *options: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run a job of rows of which `LABELLED` can be labelled; how it ended, and its record."""
    write_images(folder)
    rows = [{"id": f"r{i}", "image": "plain.jpg", "question": f"w{i} w{i + 1}"} for i in range(LABELLED)]
    rows += [{"id": f"x{i}", "image": "none.jpg", "question": "w1"} for i in range(3)]
    rows += [{"id": "e", "image": "plain.png", "question": ""}]
    source, output = write_jsonl(folder / "rows.jsonl", rows), folder / "out"
    arguments = ["--input", source, "--output", output, "--model", model, "--max-new-tokens", 4, "--batch-size", 7]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "jobs/label.py", *map(str, arguments), *options],
        env=os.environ | cluster.environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    [path] = (output / "runs").iterdir()
    return done, json.loads(path.read_text())


def targets(cluster: RayCluster) -> list[str]:
    """What the service discovery file of Ray names, which it writes every five seconds."""
    path, end = cluster.nodes[0].folder / "prom_metrics_service_discovery.json", time.monotonic() + 300
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.5)
    [group] = json.loads(path.read_text())
    return group["targets"]


def scrape(target: str) -> list[Sample]:
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=300) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [one for family in families for one in family.samples]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_collector_that_hangs_costs_no_label(tiny_model, tmp_path, cluster):
    [agent] = [pid for pid in descendants(cluster.nodes[0].process.pid) if title(pid) == "ray::DashboardAgent"]
    send(agent, signal.SIGSTOP)
    try:
        done, record = label(tiny_model, tmp_path, cluster, "--run-id", "hung")
    finally:
        send(agent, signal.SIGCONT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (record["status"], record["counts"]["labelled"]) == ("done", LABELLED)
