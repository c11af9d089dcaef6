"""Which run on record a plan is made by, and what is printed of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.planning.plan import Plan, differing, find_measured, summary
from adafv.pipeline.record.run_record import public_options
from adafv.pipeline.store.storage import Storage
from tests.pipeline.record.test_estimate import measured, record


def options(**changes: Any) -> JobOptions:
    return JobOptions.of(**{"input": ("in",), "output": "/no/such/output"} | changes)


def write(folder: Path, name: str, made: JobOptions | None = None, **values: Any) -> None:
    """The record of a run of `made` under `folder`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(public_options(made or options())))
    content = record() | {"run_id": name, "status": "done", "config": config} | values
    (folder / "runs" / f"{name}.json").write_text(json.dumps(content))


def find(folder: Path, made: JobOptions | None = None) -> str:
    return find_measured(made or options(), str(folder), Storage()).run_id


def test_the_run_with_the_most_rows_of_those_alike(tmp_path):
    few = record(labelled=100, steady_rows=80, steady=8.0)
    write(tmp_path, "few", counts=few["counts"], throughput=few["throughput"])
    write(tmp_path, "most", earlier=[record() | {"run_id": "before", "status": "failed", "config": {}}])
    write(tmp_path, "other", options(keep=0.5), counts={"labelled": 9000, "rejected": 0})
    write(tmp_path, "killed", status="running", counts={"labelled": 9000, "rejected": 0})
    assert find(tmp_path) == "most"
    assert find(tmp_path, options(keep=0.5, workers="8", price_per_hour=1.0, limit=5)) == "other"


def test_an_audit_takes_time_so_a_run_with_another_share_is_told(tmp_path):
    """Where there is another, that one is taken, however few its rows."""
    write(tmp_path, "most")
    asked = options(audit=0.2)
    [said] = differing(find_measured(asked, str(tmp_path), Storage()), asked)
    assert said == "audit was 0.0 and is 0.2"
    assert lines(replace(PLAN, differing=(said,)))["but"] == f"{said}, which changes what a row takes"
    few = record(labelled=100, steady_rows=80, steady=8.0)
    write(tmp_path, "few", asked, counts=few["counts"], throughput=few["throughput"])
    assert find(tmp_path, asked) == "few" and find(tmp_path) == "most"
    old = replace(measured(), config={})
    assert differing(old, options()) == () and differing(old, options(duplicates="reuse"))


def test_a_calibration_has_a_folder_for_each_budget(tmp_path):
    write(tmp_path / "none", "unpruned", options(strategy="none", keep=1.0))
    write(tmp_path / "adafv-plus-0.25", "quarter", options(keep=0.25))
    assert find(tmp_path, options(keep=0.25)) == "quarter"
    assert find(tmp_path, options(strategy="none")) == "unpruned"
    with pytest.raises(UsageError, match=r"no run of it has enough figures; measure first: .* --sample 320"):
        find(tmp_path)


def test_what_differs_is_said(tmp_path):
    write(tmp_path, "r")
    with pytest.raises(UsageError, match=r"prompt was '\{question\}' and is 'Describe.'"):
        find(tmp_path, options(prompt="Describe."))


def test_a_model_whose_name_holds_a_secret_is_known_again(tmp_path):
    made = options(model="/models/x?token=planted")
    write(tmp_path, "r", made)
    assert find(tmp_path, made) == "r"


def test_a_file_that_is_no_record(tmp_path):
    write(tmp_path, "r")
    (tmp_path / "runs" / "x.json").write_text("[]")
    with pytest.raises(UsageError, match=r"x\.json isn't a run's record"):
        find(tmp_path)


PLAN = Plan(input=12_000, done=2_000, planning=3.0, measured=measured(), workers=2, price_per_hour=3.6)


def lines(plan: Plan) -> dict[str, str]:
    """What is printed, by the words that a line begins with."""
    found = (line.strip().partition("  ") for line in summary(plan).splitlines())
    return {name: rest.strip() for name, _, rest in found}


def test_what_is_printed():
    """10,000 rows at 20 a second; two workers are held for 50 s before and 5 s after."""
    said = lines(PLAN)
    assert said["to do"] == "10,000 (listed in 3 s)" and said["start-up"] == "60.0 s" and said["tail"] == "5.0 s"
    assert said["steady"] == "0:08:20, 20.0 rows/s" and said["total"] == "0:09:25"
    assert said["worker-hours"] == "0.308" and said["USD"] == "1.1100"
    assert (
        said["limited by"] == "labelling: workers were busy 100% of the time; one worker needs 0.20 CPUs for preparing"
    )


def test_limits():
    said = lines(replace(PLAN, max_cost=0.51, max_hours=0.1))
    assert said["for 0.51 USD"] == "4,000 rows, 6,000 left"  # 2 x 255 s, of which 200 s label
    assert said["in 0.1 hours"] == "5,900 rows, 4,100 left; all of them need 4 workers"  # 360 s, of which 295 label


def test_nothing_to_do_costs_nothing():
    said = lines(replace(PLAN, done=12_000))
    assert (said["total"], said["USD"]) == ("0.0 s", "0.0000")


def test_without_a_price_and_of_workers_that_waited():
    said = lines(replace(PLAN, price_per_hour=None, measured=measured(gpu_seconds=50.0)))
    assert said["USD"] == "- (give --price-per-hour or --prices)"
    assert lines(replace(PLAN, price_per_hour=None, is_priced=True))["USD"] == "- (--prices has no price for GPU)"
    assert said["limited by"].startswith("fetching and preparing: workers were busy 25% of the time")
