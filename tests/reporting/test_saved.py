"""What pruning saved: measured where it can be, estimated where the model's sizes are known, else not at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.counting import Model, TokenCounts
from adafv.reporting.page import render
from adafv.reporting.report import make_report, summary
from adafv.reporting.saved import ratios
from tests.counting.test_sizes import TESTBED
from tests.reporting.outputs import label, run, write

CPU_SMALL = replace(TESTBED, width=512, layers=32, queries=512, keys=512, mlp=1376, vocabulary=32064)
KNOWN = {"model": CPU_SMALL.as_json()}
ROOT = Path(__file__).parents[2]


def pruned(count: int, seconds: float = 1.0, **values) -> list[dict]:
    return [label(f"{n}", seconds, batch_size=4, **values) for n in range(count)]


def unpruned(count: int, seconds: float = 3.0) -> list[dict]:
    return [label(f"n{n}", seconds, strategy="none", kept_tokens=100) for n in range(count)]


def test_measured_within_an_output(tmp_path):
    """Two kinds of pruned labels, of 1 and 2 seconds, against unpruned ones of 3; the estimate is not asked."""
    labels = [*pruned(3), label("x", 2.0, strategy="text"), *unpruned(2)]
    report = make_report(write(tmp_path / "out", labels, [run(price=3600.0, worker_seconds=20.0) | KNOWN]))
    assert report.as_json()["saved"] == {
        "how": "measured", "samples": 4, "pruned_s_a_sample": 1.25, "unpruned_s_a_sample": 3.0, "ratio": 2.4,
        "seconds": 7.0, "usd": pytest.approx(7.0),
    }  # fmt: skip
    assert "saved, measured" in summary(report) and "3,000.0 -> 1,250.0 ms per sample (2.40x)" in summary(report)
    assert "7.0000 USD" in render(report) and "measured; unpruned takes 2.40 times as long" in render(report)


def test_what_is_measured_leaves_audits_and_reused_labels_out(tmp_path):
    """An audited row took two prompts, a reused label none. A whole one is its own audit."""
    audited = label("twice", 9.0, audit_answer="red")
    whole = label("whole", 3.0, strategy="none", kept_tokens=100, audit_answer="red")
    labels = [*pruned(3), audited, label("again", 0.0), *unpruned(1), label("nothing", 0.0, strategy="none"), whole]
    found = make_report(write(tmp_path / "out", labels, [run()])).as_json()
    assert (found["saved"]["pruned_s_a_sample"], found["saved"]["unpruned_s_a_sample"]) == (1.0, 3.0)
    assert (found["saved"]["samples"], found["saved"]["seconds"]) == (4, 8.0)
    assert found["by_strategy"]["adafv"] == {"labelled": 5, "gpu_seconds": 12.0}
    assert make_report(write(tmp_path / "all", [audited, whole], [run()])).saved is None, "only audited rows"


def test_measured_against_another_output(tmp_path):
    first = make_report(write(tmp_path / "a", pruned(3), [run() | KNOWN]))
    other = make_report(write(tmp_path / "b", unpruned(3), [run() | KNOWN]))
    assert first.as_json()["saved"]["how"] == "estimated"
    assert first.compared_with(other).as_json()["saved"]["ratio"] == 3.0
    assert first.compared_with(first).saved == first.saved, "another that is pruned measures nothing"


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ([], [KNOWN]),
        (unpruned(2), [KNOWN]),
        (pruned(2), [{}]),
        (pruned(2), [{"model": None}]),
        (pruned(2), [{"model": TESTBED.as_json()}]),  # too small for counts to say anything
        ([*pruned(1), label("x", run="r2")], [KNOWN, {"model": CPU_SMALL.as_json() | {"layers": 33}}]),
        ([*pruned(1), label("x", run="r2")], [KNOWN, {}]),
        ([*pruned(2), label("x", looks=2, first_answer="blue")], [KNOWN]),
        ([*pruned(1), label("x", audit_answer="blue")], [KNOWN | {"config": {"audit": 0.05}}]),
    ],
)
def test_what_is_not_known_is_not_said(tmp_path, labels, runs):
    records = [run(f"r{n}", n) | extra for n, extra in enumerate(runs, 1)]
    report = make_report(write(tmp_path / "out", labels, records))
    assert report.as_json()["saved"] is None
    assert "saved" not in summary(report) and "saved" not in render(report)


def test_a_run_that_labelled_nothing_needs_no_sizes(tmp_path):
    records = [run("r1") | KNOWN, run("r2", 9)]
    assert make_report(write(tmp_path / "out", pruned(2), records)).saved is not None


@given(
    prompt=st.integers(5, 60),
    dropped=st.integers(0, 3000),
    outputs=st.integers(2, 40),
    batch=st.integers(1, 32),
    rates=st.tuples(st.floats(1e-9, 1e-6), st.floats(1e-9, 1e-6)),
)
def test_the_estimate_is_right_where_times_follow_the_counts(tmp_path_factory, prompt, dropped, outputs, batch, rates):
    """Prefill at so many ms for an operation, decoding for a byte, and what pruning doesn't touch beside them."""
    model = Model(CPU_SMALL, item=4)

    def times(length: int) -> tuple[float, float]:
        samples = [TokenCounts(positions=length, padded=length, outputs=outputs, visual=0, kept=0, words=0)] * batch
        return (
            rates[0] * model.prefill(samples).operations / batch,
            rates[1] * model.decode(samples).bytes / batch,
        )

    (prefill, decode), (slow_prefill, slow_decode) = times(prompt), times(prompt + dropped)
    untouched, prune = 7.0, 2.0
    values = {
        "prompt_tokens": prompt, "visual_tokens": 5000, "kept_tokens": 5000 - dropped, "output_tokens": outputs,
        "prefill_ms": prefill, "decode_ms": decode, "prune_ms": prune,
    }  # fmt: skip
    seconds = (untouched + prune + prefill + decode) / 1000
    labels = [label(f"{n}", seconds, **values, batch_size=batch) for n in range(3)]
    found = make_report(write(tmp_path_factory.mktemp("o") / "out", labels, [run() | KNOWN])).saved
    assert found is not None and found.how == "estimated"
    assert found.unpruned_seconds == pytest.approx((untouched + slow_prefill + slow_decode) / 1000)


def test_an_estimate_leaves_reused_labels_out(tmp_path):
    """They took no time, in no batch."""
    free = dict.fromkeys(("encode_ms", "prune_ms", "prefill_ms", "decode_ms"), 0.0)
    reused = [label(f"again{n}", 0.0, batch_size=None, **free) for n in range(4)]
    found = [
        make_report(write(tmp_path / name, labels, [run() | KNOWN])).saved
        for name, labels in (("without", pruned(4)), ("with", [*pruned(4), *reused]))
    ]
    assert found[0] is not None and found[1] == found[0]


def test_an_estimate_is_called_one(tmp_path):
    report = make_report(write(tmp_path / "out", pruned(2), [run() | KNOWN]))
    assert "saved, estimated" in summary(report) and "estimated; unpruned" in render(report)


def test_the_document_has_estimates_beside_measurements():
    """How far the estimate from a benchmark's pruned rows is below its row without pruning."""
    rows = json.loads((ROOT / "docs/measurements/speed-cpu-small-2026-11-22.json").read_text())["rows"]
    by_name = {row["name"]: row for row in rows}
    stages = ("encode_ms", "prune_ms", "prefill_ms", "decode_ms", "other_ms")
    unpruned = by_name["ours-none"]
    took = sum(unpruned[stage] for stage in stages)
    short = []
    for keep in (0.25, 0.1, 0.05):
        row = by_name[f"ours-{keep:g}"]
        prefill, decode = ratios(CPU_SMALL, row["prompt_tokens"], unpruned["prompt_tokens"], 16, row["output_tokens"])
        estimate = row["encode_ms"] + row["other_ms"] + prefill * row["prefill_ms"] + decode * row["decode_ms"]
        short.append(round(100 * (1 - estimate / took)))
    least, most = re.search(r"it is (\d+) to (\d+)% too low", (ROOT / "docs/report.md").read_text()).groups()
    assert (int(least), int(most)) == (min(short), max(short))
