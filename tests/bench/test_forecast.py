"""A plan beside its run."""

from __future__ import annotations

import json

import pytest

from adafv.bench import forecast
from adafv.bench.forecast import ForecastCheck, table
from jobs.bench import main


def test_what_a_plan_is_off_by():
    one = ForecastCheck(
        200, 800, 1, planned_seconds=90, took_seconds=100, planned_worker_seconds=88, took_worker_seconds=80
    )
    assert one.error == pytest.approx(-0.1) and one.cost_error == pytest.approx(0.1)
    assert "-10.0%" in table([one]) and " 10.0%" in table([one])


@pytest.mark.slow
@pytest.mark.nightly
def test_a_sample_a_plan_and_its_run(ray_local, tmp_path, monkeypatch):
    """Of 160 rows 64 are the sample, and the rest is planned and labelled."""
    monkeypatch.setattr(forecast, "apart", lambda function, *given: function(*given))  # in this process's Ray
    file = tmp_path / "f.json"
    arguments = ["--rows", "160", "--samples", "64", "--max-new-tokens", "2", "--json", str(file)]
    assert main(["plan", *arguments]) == 0
    [found] = json.loads(file.read_text())["plan"]
    assert (found["sample"], found["rows"], found["workers"]) == (64, 96, 1)
    assert found["planned_seconds"] > 0 and found["took_worker_seconds"] > 0
