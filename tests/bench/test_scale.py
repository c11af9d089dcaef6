"""The simulated cluster: what its handlers answer, and how CPU time is told apart. The whole runs in minutes."""

from __future__ import annotations

import pytest

from adafv.bench.scale import DEVICE, RATE, Load, Scaled, Simulated, Unprepared, _part, per_row, table, write_rows
from adafv.pipeline import schema
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row, RowImage
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers import samples
from adafv.pipeline.workers.prepare import Preparation
from tests.pipeline.workers.stages import worker_options


def test_every_row_comes_through_prepared_and_labelled(monkeypatch):
    monkeypatch.setenv(DEVICE, "H200")
    monkeypatch.setenv(RATE, "10000")
    options = JobOptions(input=("i",), output="o")
    engine = options.engine_on("cpu")
    given = rows.to_table(Row(f"r{i}", "x", (RowImage("x", data=b""),), question="q", prompt="q") for i in range(5))
    preparation = Preparation.of(options, model="m", engine=engine, storage=Storage(), handler=Unprepared)
    prepared = Unprepared(preparation)(given, lambda: None)
    assert prepared.schema == samples.SCHEMA
    worker = Simulated(worker_options("m", engine, tariff=Tariff(3.6), handler=Simulated))
    for part in (prepared, prepared.slice(0, 3)):
        labels = worker(part, lambda: None)
        assert labels.schema == schema.RESULTS and labels.column("id") == part.column("id")
        assert set(labels.column("batch_size").to_pylist()) == {part.num_rows}
        assert labels.column("cost_usd")[0].as_py() == pytest.approx(1e-7)


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("/x/ray/core/src/ray/gcs/gcs_server --log_dir=/y", "Ray's head service"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/y", "Ray's node services"),
        ("ray::MapWorker(MapBatches(LabelWorker)).submit", "workers"),
        ("ray::MapBatches(Reading.__call__)", "read, fetch, prepare"),
        ("ray::DashboardAgent", "Ray's agents"),
        ("python -u /x/ray/dashboard/agent.py", "Ray's agents"),
    ],
)
def test_processes_are_told_apart(title, part):
    assert _part(title) == part


def test_cpu_time_is_counted_for_each_further_row(tmp_path):
    few = Scaled(1000, 1.0, 10.0, 5.0, 0, {"driver": 4.0}, 400.0, 100)
    many = Scaled(11_000, 1.0, 30.0, 5.0, 0, {"driver": 9.0, "workers": 2.0}, 410.0, 1000)
    assert (few.rate, many.rate) == (180.0, 400.0), "the first labels took the time that isn't counted"
    assert per_row([few, many]) == pytest.approx({"driver": 500.0, "workers": 200.0})
    text = table([few, many], Load(nodes=1, workers=4, rate=75.0, slow=0.5))
    assert "at most 200 a second" in text and "2,000" in text
    write_rows(tmp_path / "rows", 10_001)
    assert len(list((tmp_path / "rows").iterdir())) == 2
