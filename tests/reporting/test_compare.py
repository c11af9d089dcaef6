"""Two outputs of the same rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.reporting.compare import compare, comparison_table
from adafv.reporting.report import make_report
from tests.reporting.outputs import label, run, write

answers = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.sampled_from(["red", "blue", ""]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(first=answers, second=answers, files=st.integers(1, 3))
def test_answers_are_compared_by_id(tmp_path_factory, first, second, files):
    folder = tmp_path_factory.mktemp("o")
    reports = [
        make_report(
            write(folder / name, [label(id, answer=answer) for id, answer in each.items()], [run()], files=files)
        )
        for name, each in (("a", first), ("b", second))
    ]
    got = compare(*reports)
    both = first.keys() & second.keys()
    changed = {id for id in both if first[id] != second[id]}
    assert (got.both, got.changed) == (len(both), len(changed))
    assert {row["id"] for row in got.examples} <= changed and len(got.examples) == min(len(changed), 10)
    assert got.agreement == (None if not both else pytest.approx(1 - len(changed) / len(both)))
    assert comparison_table(got)


def test_speed_and_cost_side_by_side(tmp_path):
    first = make_report(write(tmp_path / "a", [label("x", 3.0)], [run(worker_seconds=3.0, price=3600.0)]))
    second = make_report(write(tmp_path / "b", [label("x", 1.0)], [run(worker_seconds=1.0, price=3600.0)]))
    got = compare(first, second)
    assert got.as_json()["gpu_seconds_ratio"] == pytest.approx(3.0)
    assert "3,000.0 -> 1,000.0 (3.00x)" in comparison_table(got)
    assert "3,000.0000 -> 1,000.0000" in comparison_table(got)


def test_speed_leaves_audits_and_reused_labels_out(tmp_path):
    """An audited row took two prompts, a reused label none."""
    audited, reused = label("y", 9.0, audit_answer="red"), label("z", 0.0)
    first = make_report(write(tmp_path / "a", [label("x", 3.0), audited], [run()]))
    second = make_report(write(tmp_path / "b", [label("x", 1.0), audited, reused], [run()]))
    assert "3,000.0 -> 1,000.0 (3.00x)" in comparison_table(compare(first, second))
    alone = make_report(write(tmp_path / "c", [audited, reused], [run()]))
    assert compare(first, alone).speed_ratio is None and "3,000.0 -> -" in comparison_table(compare(first, alone))


def test_a_killed_run_costs_at_least_what_is_known(tmp_path):
    first = make_report(write(tmp_path / "a", [label("x")], [run(worker_seconds=3.0, price=3600.0)]))
    killed = make_report(write(tmp_path / "b", [label("x")], [run(status="running", price=3600.0)]))
    assert "3,000.0000 -> at least 60,000.0000" in comparison_table(compare(first, killed))
