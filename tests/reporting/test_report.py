"""Sums, costs and verdicts of outputs whose rows are known."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.reporting.report import make_report, summary
from adafv.reporting.top_rows import SHOWN
from tests.reporting.outputs import label, reject, run, write


def test_one_run(tmp_path):
    labels = [label(f"{n}", seconds=2.0, finish_reason="length" if n < 3 else "stop") for n in range(10)]
    record = run(input=12, seconds=5.0, worker_seconds=36.0, price=2.0)
    uri = write(
        tmp_path / "out", labels, [record], [reject("a", "image_corrupt"), reject("b", "image_corrupt")], files=3
    )
    report = make_report(uri)
    figures = report.as_json()
    assert {name: figures[name] for name in ("input", "labelled", "rejected", "superseded", "duplicates")} == {
        "input": 12, "labelled": 10, "rejected": 2, "superseded": 0, "duplicates": 0,
    }  # fmt: skip
    assert figures["samples_per_s"] == 2.0 and figures["rejected_by_error"] == {"image_corrupt": 2}
    assert figures["cost_true_usd"] == pytest.approx(36 * 2 / 3600)
    assert figures["cost_attributed_usd"] == pytest.approx(10 * 2 * 2 / 3600)
    assert figures["cost_per_1000_usd"] == pytest.approx(100 * 36 * 2 / 3600)
    assert (figures["visual_tokens"], figures["kept_tokens"], figures["output_tokens"]) == (1000, 100, 30)
    assert figures["stage_seconds"]["decode"] == pytest.approx(1.0) and figures["finished"] == {"length": 3, "stop": 7}
    text = summary(report)
    assert "every row of the last run's input is labelled or rejected exactly once" in text
    assert "image_corrupt" in text and "3 (30.0%) by --max-new-tokens" in text and "100 of 1,000 (10.0%)" in text


@settings(max_examples=50, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100), st.floats(0, 5)), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_attributed_and_idle_are_the_true_cost(tmp_path_factory, runs, seed):
    labels, records = [], []
    for number, (count, idle, price) in enumerate(runs):
        name, used = f"r{number}", 0.5 * count
        labels += [label(f"{number}-{n}", 0.5, name, after=100 * number) for n in range(count)]
        records.append(run(name, 100 * number, worker_seconds=used + idle, price=price, seconds=1.0))
    figures = make_report(write(tmp_path_factory.mktemp("o") / "out", labels, records)).as_json()
    assert figures["cost_attributed_usd"] + figures["cost_idle_usd"] == pytest.approx(figures["cost_true_usd"])
    wanted = sum((0.5 * count + idle) * price / 3600 for count, idle, price in runs)
    assert figures["cost_true_usd"] == pytest.approx(wanted) and figures["cost_idle_usd"] >= -1e-9


def test_a_killed_run_costs_at_least_what_its_labels_show(tmp_path):
    """Killed 130 s from its start with two workers, then resumed under its name."""
    killed = run("r1", status="running", workers=2, price=3600.0)
    resumed = run("r1", 600, worker_seconds=50.0, seconds=20.0, price=3600.0, input=3, earlier=[killed])
    labels = [label("a", 10, after=60), label("b", 10, after=130), label("c", 10, after=610)]
    report = make_report(write(tmp_path / "out", labels, [resumed]))
    assert [(held.seconds, held.exact) for held in report.held] == [(180.0, False), (20.0, True)]
    assert report.as_json()["cost_true_usd"] == pytest.approx(2 * 180 + 50)
    assert report.as_json()["cost_is_lower_bound"] and "at least" in summary(report)


def test_audits_of_a_run_and_of_its_resumption_are_both_told(tmp_path):
    """Both have the run's name."""
    audits = [{"rows": rows, "measure": "exact", "agreement": 1.0, "low": 0.9, "high": 1.0} for rows in (30, 40)]
    first = run("r1") | {"audit": audits[0]}
    resumed = run("r1", 600, earlier=[first]) | {"audit": audits[1]}
    report = make_report(write(tmp_path / "out", [label("a")], [resumed]))
    assert report.as_json()["audits"] == {"r1 (2026-11-20T12:00:00+00:00)": audits[0], "r1": audits[1]}
    assert "30 rows" in summary(report) and "40 rows" in summary(report)


def test_a_killed_run_without_labels_costs_nothing_that_is_known(tmp_path):
    report = make_report(write(tmp_path / "out", [], [run(status="running", price=1.0)]))
    figures = report.as_json()
    assert (figures["cost_true_usd"], figures["samples_per_s"], figures["cost_per_1000_usd"]) == (0, None, None)
    assert "samples/s" in summary(report)


def test_no_price_is_guessed(tmp_path):
    uri = write(tmp_path / "out", [label("a")], [run("r1", price=1.0), run("r2", 50, worker_seconds=5.0)])
    report = make_report(uri)
    assert report.as_json()["cost_true_usd"] is None and report.as_json()["cost_per_1000_usd"] is None
    assert "unknown: give --price-per-hour, or --prices such as cluster/prices.yaml, for the workers of r2" in summary(
        report
    )
    assert make_report(uri, price_per_hour=720.0).as_json()["cost_true_usd"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("count", "verdict"), [(5, "1 rows are from input that the last run didn't have"), (9, "3 rows are neither yet")]
)
def test_what_the_counts_say(tmp_path, count, verdict):
    uri = write(tmp_path / "out", [label(f"{n}") for n in range(6)], [run(input=count)])
    assert verdict in summary(make_report(uri))


def test_answers_that_were_cut_off_and_what_to_try(tmp_path):
    labels = [label("a", finish_reason="length"), label("b"), label("c"), label("d")]
    runs = [run("r1", config={"max_new_tokens": 64}), run("r2", 50, config={"max_new_tokens": 32})]
    text = summary(make_report(write(tmp_path / "out", labels, runs)))
    assert "answers cut off" in text and "1 (25.0%) by --max-new-tokens 64; try 128" in text
    text = summary(make_report(write(tmp_path / "none", labels[1:], runs)))
    assert "0 (0.0%) by --max-new-tokens\n" in text


def test_a_label_that_stands_twice_is_called_a_bug(tmp_path):
    report = make_report(write(tmp_path / "out", [label("a"), label("a")], [run(input=1)]))
    assert report.as_json()["duplicates"] == 1 and "this is a bug" in summary(report)


def test_a_superseded_reject_is_no_reject(tmp_path):
    rejects = [reject("a", "image_fetch_failed"), reject("b", "image_corrupt")]
    figures = make_report(write(tmp_path / "out", [label("a")], [run(input=2)], rejects)).as_json()
    assert (figures["rejected"], figures["superseded"]) == (1, 1)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(st.floats(-20, 0), st.floats(0, 50)), max_size=60), files=st.integers(1, 5))
def test_rows_that_stand_out_are_those_with_the_most_and_least(tmp_path_factory, values, files):
    labels = [label(f"{n}", seconds, mean_logprob=sure) for n, (sure, seconds) in enumerate(values)]
    figures = make_report(write(tmp_path_factory.mktemp("o") / "out", labels, [run()], files=files)).as_json()
    sure = sorted(each for each, _ in values)[:SHOWN]
    assert [row["mean_logprob"] for row in figures["least_confident"]] == pytest.approx(sure, rel=1e-6)
    slow = sorted((seconds for _, seconds in values), reverse=True)[:SHOWN]
    assert [row["gpu_seconds"] for row in figures["slowest"]] == slow
    assert sum(figures["confidence"]["counts"]) == len(values)


def test_minutes_are_of_one_run_each(tmp_path):
    labels = [label(f"{n}", 1.0, "r1" if n % 2 else "r2", after=7 * n) for n in range(60)]
    report = make_report(write(tmp_path / "out", labels, [run("r1"), run("r2")], files=4))
    wanted = Counter(("r1" if n % 2 else "r2", 7 * n // 60) for n in range(60))
    minutes = report.labels.minutes
    first = min(minute for run_id in minutes for minute in minutes[run_id])
    found = {(name, minute - first): each.rows for name in minutes for minute, each in minutes[name].items()}
    assert found == wanted
    assert [report.labels.gpu_seconds(name) for name in ("r1", "r2", "r3")] == [30.0, 30.0, 0]


@pytest.mark.parametrize("odd", [None, float("nan"), float("inf")])
def test_a_number_that_is_none_counts_for_nothing(tmp_path, odd):
    """Neither in sums nor among the rows that stand out; and the row is a label all the same."""
    labels = [label("a", seconds=2.0), label("b", gpu_seconds=odd, mean_logprob=odd), label("c", decode_ms=odd)]
    report = make_report(write(tmp_path / "out", labels, [run(input=3, price=3600.0, worker_seconds=5.0)]))
    figures = report.as_json()
    assert (figures["labelled"], figures["gpu_seconds"], figures["cost_attributed_usd"]) == (3, 3.0, 3.0)
    assert figures["stage_seconds"]["decode"] == pytest.approx(0.2)
    assert [row["id"] for row in figures["slowest"]] == ["a", "c"]
    assert sum(figures["confidence"]["counts"]) == sum(report.labels.latency) == 2
    json.dumps(figures, allow_nan=False)
    assert "of a worker" not in summary(report)


@pytest.mark.parametrize("column", [name for name in schema.LABELS.names if name != "id"])
def test_a_column_may_be_null(tmp_path, column):
    report = make_report(write(tmp_path / "out", [label("a") | {column: None}, label("b")], [run(input=2)]))
    assert report.labelled == 2 and summary(report)


def test_a_spread_is_the_same_however_the_labels_lie(tmp_path):
    """Of rows in another order and in other files the same are shown, from everywhere among them."""
    labels = [label(f"{n}", 0.01 * n) for n in range(3000)]
    one = make_report(write(tmp_path / "one", labels, [run()], files=3)).labels.spread.rows
    other = make_report(write(tmp_path / "other", labels[::-1], [run()], files=7)).labels.spread.rows
    assert [row["id"] for row in one] == [row["id"] for row in other] and len(one) == SHOWN
    numbers = [int(row["id"]) for row in one]
    assert len(set(numbers)) == SHOWN and min(numbers) < 1000 and max(numbers) > 2000


def test_what_a_row_says_can_do_nothing_to_a_terminal(tmp_path):
    text = summary(make_report(write(tmp_path / "out", [label("\x1b[2Ja", answer="b\nc\x1b]0;x\x07")], [run()])))
    assert "\x1b" not in text and "\x07" not in text and "b c" in text


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"run_id": "r"}'])
def test_a_record_that_is_none_is_named(tmp_path, text):
    uri = write(tmp_path / "out", [label("a")], [run()])
    (tmp_path / "out" / "runs" / "r2.json").write_text(text)
    with pytest.raises(UsageError, match=r"runs/r2\.json isn't a run's record"):
        make_report(uri)


def test_there_must_be_an_output(tmp_path):
    with pytest.raises(UsageError, match="is no output of a labelling job"):
        make_report(tmp_path)
