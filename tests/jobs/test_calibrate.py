"""`jobs/calibrate.py` as a command: a sample labelled at each budget, and the job that follows from it."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from unittest.mock import Mock

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from adafv.worlds.drawn.dataset import rows, write_shards
from jobs import calibrate, label
from tests.pipeline.inputs import write_structs
from tests.reporting.test_page import Page

TYPES = ["colour", "exists"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "scenes"
    write_shards(folder, rows(12, 7000, TYPES), shard_rows=10)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The output of calibrations whose samples have the same labels of the unpruned model."""
    return tmp_path_factory.mktemp("calibrate") / "work"


def command(scenes: Path, work: Path, *more: str) -> list[str]:
    asked = ["--input", str(scenes), "--output", str(work), "--sample", "30", "--keep", "0.5,0.05"]
    return [*asked, "--min-agreement", "0.5", "--max-new-tokens", "8", *more]


def ids(output: Path) -> list[str]:
    return ds.dataset(output / "labels").to_table(columns=["id"]).column("id").to_pylist()


@pytest.mark.slow
def test_from_a_sample_to_the_labels(ray_local, scenes, work, tmp_path, capsys, caplog):
    written, page = tmp_path / "c.json", tmp_path / "c.html"
    files = ["--json", str(written), "--html", str(page)]
    asked = command(scenes, work, "--answer-column", "answer", "--price-per-hour", "1", "--stratify", "type", *files)
    assert calibrate.main(asked) == 0
    found, out = json.loads(written.read_text()), capsys.readouterr().out

    wanted = {"keep", "agreement", "low", "high", "cost_per_1000_usd", "samples_per_s"}
    assert [budget["keep"] for budget in found["budgets"]] == [0.5, 0.05]
    for budget in found["budgets"]:
        assert wanted <= budget.keys() and 0 <= budget["low"] <= budget["agreement"] <= budget["high"] <= 1
        assert budget["cost_per_1000_usd"] * 3.6 * budget["samples_per_s"] == pytest.approx(1)
        assert budget["compared"] == budget["answered"] == 30 and budget["left_out"] == 0
    assert found["drawn"] == 30 and found["unpruned"]["accuracy"]["value"] > 0.9
    assert found["recommended_keep"] in (0.5, 0.05), "half of its answers agree at any budget"
    assert "kept  normalised" in out and not Page(page.read_text()).open

    plans = {plan["stratum"]: plan for plan in found["plans"]}
    assert set(plans) == set(TYPES) and sum(plan["rows"] for plan in plans.values()) == 30
    taken = shlex.split(found["plans_command"])
    thresholds = json.loads(taken[taken.index("--thresholds") + 1])
    assert thresholds == {"type": {name: plan["threshold"] for name, plan in plans.items() if plan["own"]}}

    samples = [sorted(ids(work / name)) for name in ("none", "adafv-plus-0.5", "adafv-plus-0.05")]
    assert samples[0] == samples[1] == samples[2] and len(set(samples[0])) == 30

    caplog.set_level(logging.INFO, "adafv")
    assert calibrate.main(asked) == 0
    assert caplog.text.count("30 done before, 0 to do") == 3
    assert json.loads(written.read_text()) == found, "labels are the same, and so are the figures"

    assert calibrate.main([*asked, "--sample", "20"]) == 0
    assert json.loads(written.read_text())["budgets"][0]["compared"] == 20, "of a smaller sample, which is a part"

    program, script, *job = shlex.split(found["command"])
    assert (program, script) == ("python", "jobs/label.py") and label.main(job) == 0
    everything = pq.read_table(scenes).column("id").to_pylist()
    assert sorted(ids(work / f"adafv-plus-{found['recommended_keep']:g}")) == sorted(everything)


@pytest.mark.slow
def test_strategies_side_by_side_and_a_sample_that_decides_nothing(ray_local, scenes, work, tmp_path, capsys):
    asked = command(scenes, work, "--sample", "5", "--strategies", "random,uniform", "--keep", "0.5",
                    "--min-agreement", "0.99", "--json", str(tmp_path / "c.json"))  # fmt: skip
    assert calibrate.main(asked) == 0
    found, out = json.loads((tmp_path / "c.json").read_text()), capsys.readouterr().out
    assert [(budget["strategy"], budget["keep"]) for budget in found["budgets"]] == [("random", 0.5), ("uniform", 0.5)]
    assert found["recommended_keep"] is found["command"] is None and found["sample_too_small"]
    assert "too small to decide" in out and "at least 368 rows" in out and "next:" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "/no/such/place"], "there is nothing"),
        (["--min-agreement", "2"], "--min-agreement is 2.0"),
        (["--keep", "7"], "--keep is '7'"),
        (["--answer-column", "truth"], "--answer-column is 'truth'"),
        (["--model", "/no/such/model"], "--model /no/such/model can't be loaded"),
    ],
)
def test_usage(ray_local, tmp_path, arguments, said, capsys):
    path = write_structs(tmp_path / "rows.parquet")
    assert calibrate.main(["--input", str(path), "--output", str(tmp_path / "work"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_failed(ray_local, tiny_model, tmp_path, capsys):
    """The model can't be loaded by the worker; and rows of which none can be labelled."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    asked = ["--input", str(write_structs(tmp_path / "rows.parquet")), "--model", str(tmp_path / "model")]
    assert calibrate.main([*asked, "--output", str(tmp_path / "work")]) == 1
    assert "resumes it" in capsys.readouterr().err


def test_a_store_that_fails_while_answers_are_read(monkeypatch, capsys):
    failure = ClientError({"Error": {"Code": "SlowDown", "Message": "no"}}, "GetObject")
    monkeypatch.setattr("adafv.calibration.calibration.calibrate", Mock(side_effect=failure))
    assert calibrate.main(["--input", "in", "--output", "s3://b/out", "--prompt", "What?"]) == 1
    said = capsys.readouterr().err
    assert "failed: An error occurred (SlowDown)" in said and "again resumes it" in said
