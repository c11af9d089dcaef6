"""A job beside its engine: rates are counted from labels, and a job without a model labels every row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.bench import pipeline
from adafv.bench.pipeline import Constant, Throughput, _engine, _steady, job_in, throughput_table, write_rows
from adafv.bench.shapes import PRESETS
from adafv.engine import EngineOptions
from adafv.pipeline import schema
from adafv.pipeline.options import JobOptions
from adafv.pipeline.workers.samples import SCHEMA
from jobs.bench import main
from tests.bench.tiny_shapes import NEXT


def test_the_rate_is_counted_from_the_end_of_the_first_batch(tmp_path):
    """Two batches of three rows behind the first, 2 s apart; of two workers' 8 s, 2 s went into labelling."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"id": str(row), "labelled_at": start + timedelta(seconds=2 * (row // 3)), "gpu_seconds": 1 / 3}
        for row in range(9)
    ]
    (tmp_path / "labels").mkdir()
    for number, part in enumerate((rows[:4], rows[4:])):
        pq.write_table(pa.Table.from_pylist(part, schema=schema.LABELS), tmp_path / "labels" / f"{number}.parquet")
    first, rate, idle = _steady(tmp_path, workers=2)
    assert first == start.timestamp()
    assert rate == pytest.approx(6 / 4)
    assert idle == pytest.approx(1 - 2 / 8)


def test_what_is_kept_is_of_all_workers_engines():
    one = Throughput(100, workers=2, threads=1, engine=10.0, job=19.0, whole=12.0, first_seconds=5.0, idle_share=0.03)
    assert one.kept == pytest.approx(0.95)
    assert "95.0%" in throughput_table([one])


def test_rows_come_again_under_other_ids(tmp_path):
    write_rows(tmp_path / "rows", 5001)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "rows").iterdir())]
    assert [table.num_rows for table in tables] == [5000, 1]
    ids = [id for table in tables for id in table.column("id").to_pylist()]
    assert len(set(ids)) == 5001


def test_the_engine_alone_labels_the_rows(tmp_path):
    job = job_in(tmp_path, JobOptions.of(input=("-",), output="-", max_new_tokens=2), 3)
    assert _engine(job, Path(job.input[0]), batch_size=2, threads=1) > 0


def test_without_a_model_a_label_is_a_label():
    """Every column, and those of the row kept."""
    given = pa.Table.from_pylist([{"id": "x"}], schema=SCHEMA)
    (row,) = Constant(SimpleNamespace(engine=EngineOptions(strategy="random")))(given, lambda: None).to_pylist()
    assert list(row) == schema.RESULTS.names and (row["id"], row["answer"], row["strategy"]) == ("x", "no", "random")


@pytest.fixture
def together(ray_local, monkeypatch) -> None:
    """All that is measured runs in this process, and its jobs on this process's Ray."""
    monkeypatch.setattr(pipeline, "apart", lambda function, *given: function(*given))


@pytest.mark.slow
@pytest.mark.nightly
def test_a_preset_is_a_model_too(together, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", NEXT)
    file = tmp_path / "f.json"
    options = ["--batch-size", "4", "--max-new-tokens", "2", "--json", str(file)]
    assert main(["pipeline", "--model", "tiny", "--rows", "12", *options]) == 0
    assert json.loads(file.read_text())["pipeline"][0]["job"] > 0


@pytest.mark.slow
@pytest.mark.nightly
def test_both_ways(together, tmp_path, capsys):
    """A job on 48 rows, and one without a model on 200: each row is labelled, or the job would say so."""
    file = tmp_path / "f.json"
    assert main(["pipeline", "--rows", "48", "--max-new-tokens", "2", "--json", str(file)]) == 0
    (figures,) = json.loads(file.read_text())["pipeline"]
    assert figures["rows"] == 48 and figures["job"] > 0 and figures["engine"] > 0 and 0 <= figures["idle_share"] < 1
    assert figures["kept"] == pytest.approx(figures["job"] / figures["engine"] / figures["workers"])
    assert main(["pipeline", "--no-engine", "--rows", "200", "--json", str(file)]) == 0
    rate, *tenths = json.loads(file.read_text())["pipeline"]
    assert rate["rows"] == 200 and rate["rows_per_s"] > 0 and tenths
    assert all(one["driver_bytes"] > 0 and one["store_bytes"] >= 0 for one in tenths)
    assert "rows a second" in capsys.readouterr().out
