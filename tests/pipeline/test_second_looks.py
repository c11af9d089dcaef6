"""A job that asks unsure answers again: its labels are those of two jobs without, and say which."""

from __future__ import annotations

import json

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from tests.pipeline.inputs import NAMES, write_images, write_jsonl
from tests.pipeline.test_run import label, outcome


@pytest.mark.slow
def test_labels_are_those_of_the_look_that_made_them(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    kinds = {f"r{i}": ("always", "never", None, "new")[i // 2 % 4] for i in range(16)}
    rows = [
        {"id": id, "image": NAMES[i % len(NAMES)], "question": f"w{i} w{2 * i}", "kind": kinds[id]}
        for i, id in enumerate(kinds)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = {}
    for name, more in {"pruned": {}, "none": {"strategy": "none"}}.items():
        label(tiny_model, tmp_path / name, path, **more)
        found[name] = {row["id"]: row for row in outcome(tmp_path / name).labels}
        assert {(row["looks"], row["first_answer"]) for row in found[name].values()} == {(1, None)}
    others = sorted(row["confidence"] for id, row in found["pruned"].items() if kinds[id] in (None, "new"))
    threshold = (others[3] + others[4]) / 2
    thresholds = {"always": 1.0, "never": -1000.0}
    second = {"escalate": 1.0, "escalate_below": threshold, "thresholds": json.dumps({"kind": thresholds})}
    label(tiny_model, tmp_path / "both", path, batch_size=5, price_per_hour=3.6, **second)
    labels = outcome(tmp_path / "both").labels
    assert len(labels) == 16 and sum(row["looks"] == 2 for row in labels) == 8
    for row in labels:
        first, whole = found["pruned"][row["id"]], found["none"][row["id"]]
        expected = whole if first["confidence"] < thresholds.get(kinds[row["id"]], threshold) else first
        for column in ("answer", "kept_indices", "prompt_tokens", "keep", "kept_tokens", "images"):
            assert row[column] == expected[column], column
        assert row["confidence"] == row["mean_logprob"] == pytest.approx(expected["mean_logprob"], abs=1e-4)
        assert row["strategy"] == "adafv-plus" and row["cost_usd"] == pytest.approx(row["gpu_seconds"] / 1000)
        if row["looks"] == 2:
            assert (row["first_answer"], row["first_kept_indices"]) == (first["answer"], first["kept_indices"])
            assert row["first_confidence"] == pytest.approx(first["confidence"], abs=1e-4)
    for batch in {row["labelled_at"] for row in labels}:
        spent = {looks: {row["gpu_seconds"] for row in labels if (row["labelled_at"], row["looks"]) == (batch, looks)}
                 for looks in (1, 2)}  # fmt: skip
        assert not spent[1] or not spent[2] or max(spent[1]) < min(spent[2]), "a second look is its row's"
    label(tiny_model, tmp_path / "both", path, **second)  # the same, with nothing to do
    with pytest.raises(UsageError, match="escalate-below was"):
        label(tiny_model, tmp_path / "both", path, **second | {"escalate_below": threshold - 1})


def test_a_threshold_is_a_number():
    with pytest.raises(UsageError, match="--escalate-below is -inf; it must be a log-probability"):
        JobOptions.of(input=("i",), output="o", escalate=1.0, escalate_below=float("-inf"))
    with pytest.raises(UsageError, match=r"--escalate is 0\.05"):
        JobOptions.of(input=("i",), output="o", escalate=0.05, escalate_below=-0.1)


@pytest.mark.slow
def test_an_audit_says_how_far_answers_agree_and_may_fail_the_run(ray_local, tiny_model, tmp_path, capsys):
    write_images(tmp_path)
    rows = [{"id": f"r{i}", "image": NAMES[i % len(NAMES)], "question": f"w{i} w{2 * i}"} for i in range(16)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    asked = {"audit": 1.0, "min_agreement": 0.999, "strategy": "random", "keep": 0.05}
    result = label(tiny_model, tmp_path / "out", path, audit_fails=True, **asked)
    labels = outcome(tmp_path / "out").labels
    agreement = sum(row["answer"] == row["audit_answer"] for row in labels) / 16
    assert 0 <= agreement < 0.999 and result.status == 3
    found = result.record["audit"]
    assert (found["rows"], found["measure"]) == (16, "normalised") and found["agreement"] == pytest.approx(agreement)
    assert "audited" in result.run.table()
    assert label(tiny_model, tmp_path / "warned", path, **asked).status == 0
    assert label(tiny_model, tmp_path / "out", path, strategy="random", keep=0.05).status == 0, "no part of the recipe"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_agreement": 0.9}, "--min-agreement is 0.9; it must be unset without --audit"),
        ({"audit": 0.1, "audit_fails": True}, "--audit-fails is True; it must be unset without --min-agreement"),
        ({"audit": 0.1, "min_agreement": 1.0}, "--min-agreement is 1.0; it must be above 0 and below 1"),
    ],
)
def test_audits_that_make_no_sense(options, said):
    with pytest.raises(UsageError) as error:
        JobOptions.of(input=("i",), output="o", **options)
    assert said in str(error.value)
