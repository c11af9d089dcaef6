"""What a run that ends badly tells: its record, and so its notification, says what its exit status does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pyarrow as pa
import pytest

from adafv.pipeline import collector, schema
from adafv.pipeline.errors import RunError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.run import Job
from adafv.pipeline.store.output import LocalOutput


@pytest.fixture
def job(tmp_path: Path, monkeypatch) -> Job:
    """A job of no rows, whose stages don't run."""
    options = JobOptions.of(input=["photos/"], output=str(tmp_path), prompt="What is it?", model="testbed")
    setup = SimpleNamespace(
        options=options, output=LocalOutput(str(tmp_path)), engine=options.engine, tariff=Tariff(), resources=None
    )
    job = Job(setup=setup, handler=None, preparing=None)
    monkeypatch.setattr(job, "_plan", lambda: None)
    return job


def test_a_run_whose_record_cannot_be_written_is_not_told_to_be_done(job, monkeypatch):
    """Its exit status is 1."""

    def put(name: str, data: bytes) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(job._setup.output, "put", put)
    with pytest.raises(RunError, match="can't write the run's record: disk full"):
        job._end(None)
    assert (job.ended["status"], job.ended["error"]) == ("failed", "can't write the run's record: disk full")


def test_an_error_that_nobody_expected_is_not_told_to_be_an_interruption(job, monkeypatch):
    def stream(worklist: object) -> None:
        raise ValueError("a column is missing")

    monkeypatch.setattr(job, "_stream", stream)
    with pytest.raises(ValueError, match="a column is missing"):
        job._run_alone()
    assert (job.ended["status"], job.ended["error"]) == ("failed", "ValueError: a column is missing")


def test_rows_that_could_not_be_written_are_left(job, tmp_path, monkeypatch):
    """Two labels and a reject come out of four rows, and the last files find the disk full."""
    monkeypatch.setattr(collector, "Roster", Mock())
    monkeypatch.setattr(collector, "address", Mock(return_value=None))
    rows = [{"id": id, "worker": "w", "worker_started": 1.0, "message": "m"} for id in "abc"]
    rows[2]["error"] = "image_empty"
    results = Mock(**{"iter_batches.return_value": [pa.Table.from_pylist(rows, schema=schema.RESULTS)]})
    sink, record = Sink(LocalOutput(str(tmp_path)), "r"), job._run
    record.input, record.tally = 4, sink.tally
    setup = SimpleNamespace(resources=Mock(), engine=Mock(strategy="none"), tariff=Tariff(), options=job._setup.options)
    taking = collector.Collector(setup=setup, record=record, worklist=Mock(to_do=4), sink=sink, gate=None, began=0.0)
    monkeypatch.setattr(LocalOutput, "put", Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        taking.collect(results)
    counts = record.record()["counts"]
    assert (counts["labelled"], counts["rejected"], counts["unwritten"], counts["left"]) == (2, 1, 3, 4)
