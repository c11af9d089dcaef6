"""What is said, in words and as JSON, and that it says no more than the sample shows."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from adafv.calibration.command import command_line
from adafv.calibration.summary import summary
from adafv.pipeline.options import JobOptions
from adafv.scoring.bounds import Estimate
from tests.calibration.made import budget, calibration, options
from tests.parsing import parse_options

MEETS, STRADDLES, FAILS = (0.96, 0.92, 0.98), (0.92, 0.87, 0.95), (0.7, 0.6, 0.8)


def test_a_recommendation():
    found = calibration(budget(0.5, (1.0, 0.96, 1.0)), budget(0.1, MEETS, seconds=0.005), unpruned=0.02)
    text = summary(found)
    assert "Recommended: adafv with --keep 0.1" in text and "0.9200 or more" in text
    assert "75% less of a worker's time" in text
    assert text.splitlines()[-2:] == ["next:", found.command]


def test_one_that_saves_nothing_says_so():
    assert "takes no less of a worker's time" in summary(calibration(budget(0.1, MEETS, seconds=0.03)))


def test_no_budget_is_good_enough():
    text = summary(calibration(budget(0.5, FAILS)))
    assert "none is recommended" in text and "next:" not in text and "Undecided" not in text


def test_what_is_not_decided_is_said_of_budgets_that_would_be_cheaper():
    text = summary(calibration(budget(0.5, MEETS), budget(0.25, STRADDLES), budget(0.1, FAILS)))
    assert "Recommended: adafv with --keep 0.5" in text
    assert "Undecided: whether adafv with --keep 0.25" in text and "--sample of about 630 may" in text
    assert "--keep 0.1 meets" not in text
    assert "Undecided" not in summary(calibration(budget(0.5, STRADDLES), budget(0.25, MEETS)))
    text = summary(calibration(budget(0.5, (0.89, 0.8, 0.95))))
    assert "Undecided" in text and "misses the target in this sample" in text


def test_a_sample_that_is_too_small():
    found = calibration(budget(0.5, (1.0, 0.96, 1.0)), min_agreement=0.98)
    text = summary(found)
    assert "too small to decide" in text and "0.9640 or more" in text and "at least 183 rows" in text
    assert "none is recommended" not in text and "Undecided" not in text
    assert found.as_json()["sample_too_small"] is True and found.as_json()["least_sample"] == 183


def test_what_was_left_out():
    found = calibration(budget(0.5, MEETS, left_out=3, answered=90, accuracy=Estimate(0.8, 0.7, 0.9),
                               difference=Estimate(-0.1, -0.2, 0.0)), answer_column="answer")  # fmt: skip
    text = summary(found)
    assert "up to 3 rows (see out/adafv-0.5/rejects)" in text and "leaves out 10 rows without a right answer" in text
    assert "80.0%  -10.0 [-20.0, +0.0]" in text
    assert "the input has no more rows for --sample 500" in summary(calibration(budget(), sample=500))


def test_the_table():
    text = summary(calibration(budget(0.5, MEETS), budget(0.5, FAILS, "random"), price=3.6))
    assert "\nadafv\n" in text and "\nrandom\n" in text and "USD/1,000" in text and "  0.02\n" in text
    assert "0.9200 - 0.9800" in text and "USD" not in summary(calibration(budget()))


def test_bounds_are_rounded_down():
    assert "0.8999 - 0.9800" in summary(calibration(budget(0.5, (0.96, 0.89999, 0.98))))


def test_json():
    found = calibration(budget(0.5, FAILS), budget(0.1, MEETS), price=3.6).as_json()
    assert json.loads(json.dumps(found)) == found
    assert found["recommended_keep"] == 0.1 and found["recommended_strategy"] == "adafv"
    first = found["budgets"][0]
    wanted = {"keep": 0.5, "agreement": 0.7, "low": 0.6, "high": 0.8, "cost_per_1000_usd": 0.01, "samples_per_s": 100.0}
    assert {name: first[name] for name in wanted} == pytest.approx(wanted)
    assert [each["verdict"] for each in found["budgets"]] == ["fails", "meets"]
    without = calibration(budget(0.5, FAILS)).as_json()
    assert without["recommended_keep"] is without["command"] is without["budgets"][0]["cost_per_1000_usd"] is None


def test_a_worker_has_the_price_of_its_gpus_or_of_the_table():
    given = calibration(budget(0.5, MEETS), price=3.6)
    four = given.options.job.changed(backend="vllm", tensor_parallel=4)
    many = replace(given, options=replace(given.options, job=four))
    assert "  0.04\n" in summary(many) and many.as_json()["unpruned"]["cost_per_1000_usd"] == pytest.approx(0.08)
    listed = replace(calibration(budget(0.5, MEETS)), usd_per_hour=7.2)  # --prices
    assert "  0.02\n" in summary(listed) and listed.as_json()["price_per_hour"] == 7.2
    assert replace(given, usd_per_hour=7.2).price == 3.6


def test_the_command_line_is_the_candidates_job():
    """What was asked of the calibration, and what it found; as the job would read it."""
    given = options(input=("a b", "c"), prompt="'{question}' -- in $HOME?", price=2.5)
    job = given.candidates()[2].job
    words = shlex.split(command_line(job))
    assert words[:2] == ["python", "jobs/label.py"]
    read = parse_options(words[2:], "", "")
    assert (read.engine.strategy, read.engine.keep, read.output, read.sample) == ("adafv", 0.1, "out/adafv-0.1", None)
    assert (read.input, read.prompt, read.price_per_hour) == (("a b", "c"), "'{question}' -- in $HOME?", 2.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "-- {question}"},
        {"allow_http": True},
        {"keep": 0.3333333},
        {"prompts": (("Describe it 😀.", 3.0), ("List: what's there", 1.0))},
        {"workers": "1:2", "dtype": "float32", "limit": 10, "image_root": "/pictures", "max_new_tokens": 3},
    ],
)
def test_all_options_of_the_job_are_on_it(changes):
    job = JobOptions.of(input=("in",), output="out", strategy="random", **{"keep": 0.5} | changes)
    assert parse_options(shlex.split(command_line(job))[2:], "", "") == job


def test_outside_a_checkout_it_is_the_installed_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line(JobOptions(input=("in",), output="out")).startswith("adafv label --input in --output out ")


@pytest.mark.parametrize(
    "asked",
    [
        {"input": ("https://me:hidden@host/x?sig=hidden",), "image": "gs://u:hidden@b/c"},
        {"prompts": (("Read https://me:hidden@host/x", 1.0), ("Describe it.", 1.0))},
    ],
)
def test_no_secret_is_shown(asked):
    found = calibration(budget(0.5, MEETS), **asked)
    text = summary(found)
    assert "hidden" not in text + json.dumps(found.as_json()) + command_line(options(**asked).candidates()[1].job)
    assert "leaves out what may be a secret" in text and "leaves out" not in summary(calibration(budget(0.5, MEETS)))


def test_a_demand_on_accuracy():
    known = {"answered": 100, "accuracy": Estimate(0.8, 0.7, 0.9), "difference": Estimate(-0.01, -0.02, 0.0)}
    good = budget(0.1, FAILS, demanded=Estimate(-0.01, -0.0183, 0.0), best=Estimate(0.0, -0.01, 0.01), **known)
    found = calibration(good, answer_column="answer", max_accuracy_loss=0.02)
    text = summary(found)
    assert "target: accuracy (exact) of at most 0.02 less" in text
    assert "Recommended: adafv with --keep 0.1" in text and "at most 0.0183 less than the unpruned model's" in text
    written = found.as_json()
    assert (written["max_accuracy_loss"], written["min_agreement"], written["least_sample"]) == (0.02, None, 183)
    assert written["budgets"][0]["verdict"] == "meets" and written["budgets"][0]["agreement"] == 0.7

    absolute = calibration(good, answer_column="answer", min_accuracy=0.85)
    assert absolute.is_too_small and "rows at least" not in summary(absolute)
