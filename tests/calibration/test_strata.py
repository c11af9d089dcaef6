"""Thresholds that differ by stratum, on answers where the truth is known."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from adafv.calibration import demand
from adafv.calibration.cascades import ERROR
from adafv.calibration.page import render
from adafv.calibration.second_looks import families
from adafv.calibration.strata import Stratified, stratify
from adafv.calibration.summary import summary
from adafv.scoring.bounds import Bounds, rows_to_show
from tests.calibration.made import answers, budget, calibration, options
from tests.parsing import parse_options
from tests.reporting.test_page import Page

# Rows by type; the share of pruned answers that is wrong; and how sure the model is of these: of wrong counts it is as
# sure as of right colours.
TYPES = {"colour": (400, 0.1, -0.5), "count": (400, 0.4, -0.05), "sign": (40, 0.5, -0.3)}
STRATA = {f"{type}-{number:04d}": type for type, (rows, *_) in TYPES.items() for number in range(rows)}
UNPRUNED = answers(dict.fromkeys(STRATA, "red"), seconds=0.05)
UNPRUNED = replace(UNPRUNED, rows={id: row | {"prompt_tokens": 200} for id, row in UNPRUNED.rows.items()})
ASKED = {"strategies": ("adafv",), "keeps": (0.1,), "min_agreement": 0.98, "stratify": "type"}


def pruned(keep: float = 0.1):
    rows = {}
    for id, type in STRATA.items():
        many, wrong, sure = TYPES[type]
        fails = int(id[-4:]) < wrong * many
        rows[id] = answers({id: "blue" if fails else "red"}).rows[id] | {
            "confidence": sure if fails else sure / 10 - int(id[-4:]) % 50 / 2000,
            "prompt_tokens": 20 + int(180 * keep),
        }
    return replace(answers({}, seconds=0.014), rows=rows)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """A calibration's own bounds take seconds."""
    monkeypatch.setattr(demand, "Bounds", partial(Bounds, draws=1000))


def found(strata=STRATA, labelled=None, **values):
    given = options(**ASKED | values)
    labelled = labelled or {("adafv", 0.1): pruned()}
    common = families(given, UNPRUNED, labelled, {})
    by_stratum = stratify(given, UNPRUNED, labelled, {}, strata, common)
    made = calibration(budget(0.1, (0.7, 0.6, 0.8)), families=common, stratified=by_stratum, **ASKED | values)
    return by_stratum, made


def test_each_stratum_has_the_threshold_that_it_needs():
    by_stratum, made = found()
    plans = {plan.stratum: plan for plan in by_stratum.plans}
    assert [plan.own for plan in by_stratum.plans] == [True, True, False]
    assert plans["colour"].cascade.threshold < plans["count"].cascade.threshold
    for name in ("colour", "count"):
        assert plans[name].cascade.low >= 0.98 and plans[name].cascade.escalated_share < 0.6
    assert plans["sign"].cascade.threshold == by_stratum.common.threshold == made.cascade.threshold
    assert by_stratum.tokens < made.cascade.tokens, "one threshold for all asks too many colours again"


def test_the_figures_of_all_rows_are_those_of_the_parts():
    by_stratum, _ = found()
    first, wrong, again = pruned(), 0, 0
    thresholds = json.loads(by_stratum.thresholds)["type"]
    for id, type in STRATA.items():
        asked = first.rows[id]["confidence"] < thresholds.get(type, by_stratum.common.threshold)
        again += asked
        wrong += first.rows[id]["answer"] != "red" and not asked
    assert by_stratum.escalated_share == pytest.approx(again / len(STRATA))
    agreement = sum(plan.rows * plan.cascade.agreement for plan in by_stratum.plans) / len(STRATA)
    assert agreement == pytest.approx(1 - wrong / len(STRATA))
    assert by_stratum.tokens == pytest.approx(38 + 2 + again / len(STRATA) * 202)


def test_too_few_rows_get_the_common_threshold_and_that_is_said():
    _, made = found()
    text = summary(made)
    assert "second looks by stratum\n" in text and "By type: 2 of 3 have their own threshold" in text
    assert "The others (40 rows together) have too few rows, or aren't shown to meet the target" in text
    [line] = [line for line in text.splitlines() if line.split()[:2] == ["sign", "40"]]
    assert line.endswith("the common threshold")


def test_what_label_takes():
    by_stratum, made = found()
    assert made.next_command == made.stratified_command
    read = parse_options(shlex.split(made.stratified_command)[2:], "", "")
    assert read.engine.stratum_column == "type"
    for plan in by_stratum.plans:
        assert read.engine.threshold_of(plan.stratum) == plan.cascade.threshold
    assert read.engine.threshold_of(None) == read.engine.threshold_of("new") == by_stratum.common.threshold
    assert read.output == f"out/adafv-0.1-then-1-below{by_stratum.common.threshold:g}-by-type"


def test_json_has_the_plans_beside_the_cascade():
    _, made = found(price=3.6)
    written = made.as_json()
    assert json.loads(json.dumps(written)) == written and written["stratify"] == "type"
    assert [(plan["stratum"], plan["rows"], plan["own"]) for plan in written["plans"]] == [
        ("colour", 400, True), ("count", 400, True), ("sign", 40, False)
    ]  # fmt: skip
    assert set(written["plans"][0]) >= set(written["cascade"])
    assert written["plans"][2]["low"] is None, "nothing is promised"
    assert written["plans_command"] == made.stratified_command


def test_the_page_has_them_too():
    _, made = found()
    assert "second looks by stratum" in " ".join(Page(render(made)).words)


def test_no_stratum_is_large_enough():
    by_stratum, made = found(strata={id: id[-1] for id in STRATA})  # ten of 84 rows
    assert by_stratum is None and made.stratified_command is None and made.as_json()["plans"] == []
    assert "No type has its own threshold: each has too few rows, or isn't shown" in summary(made)


def test_large_strata_that_nothing_suffices_for():
    """Not their size is to blame."""
    labelled = {("adafv", keep): pruned(keep) for keep in (0.1, 0.5)}
    by_stratum, made = found(labelled=labelled, escalates=(0.5,))
    assert by_stratum is None and made.cascade is None
    assert "isn't shown to meet the target" in summary(made) and "enough rows" not in summary(made)


def test_rows_of_no_stratum_get_the_common_threshold():
    by_stratum, _ = found(strata={id: type for id, type in STRATA.items() if type == "colour"})
    assert [plan.stratum for plan in by_stratum.plans] == ["colour"]
    assert list(json.loads(by_stratum.thresholds)["type"]) == ["colour"]


def test_costs_include_rows_of_no_stratum():
    """Else a plan for the cheap half of the rows would look cheaper than any for all of them."""
    by_stratum, made = found(strata={id: type for id, type in STRATA.items() if type != "count"})
    first, threshold = pruned(), json.loads(by_stratum.thresholds)["type"]["colour"]
    again = [
        row["confidence"] < (threshold if STRATA[id] == "colour" else by_stratum.common.threshold)
        for id, row in first.rows.items()
    ]
    assert by_stratum.escalated_share == pytest.approx(np.mean(again))
    assert by_stratum.tokens == pytest.approx(38 + 2 + np.mean(again) * 202)
    assert len(made.as_json()["plans"]) == 2


def test_costs_include_strata_without_right_answers():
    """For a target on accuracy nothing can be shown for these, but they cost as much as others."""
    given, labelled = options(**ASKED | {"min_accuracy": 0.9, "answer_column": "right"}), {("adafv", 0.1): pruned()}
    truth = {id: ("red",) for id, type in STRATA.items() if type != "count"}
    common = families(given, UNPRUNED, labelled, truth)
    by_stratum = stratify(given, UNPRUNED, labelled, truth, STRATA, common)
    assert {plan.stratum: plan.own for plan in by_stratum.plans} == {"colour": True, "count": False, "sign": False}
    thresholds = json.loads(by_stratum.thresholds)["type"]
    again = [
        row["confidence"] < thresholds.get(STRATA[id], by_stratum.common.threshold)
        for id, row in labelled["adafv", 0.1].rows.items()
    ]
    assert by_stratum.escalated_share == pytest.approx(np.mean(again))
    assert by_stratum.tokens == pytest.approx(38 + 2 + np.mean(again) * 202)


def test_the_error_is_divided_by_the_strata():
    """All agree, and so do rows_to_show rows at the error of two strata, but one row fewer doesn't."""
    needed = rows_to_show(0.98, ERROR / 2)
    for rows, own in ((needed + 20, 2), (needed - 1, 1)):
        strata = {f"{type}-{number:04d}": type for type in ("colour", "count") for number in range(rows)}
        strata |= {f"colour-{number:04d}": "colour" for number in range(800)}
        same = {("adafv", 0.1): replace(UNPRUNED, rows={id: row for id, row in UNPRUNED.rows.items() if id in strata})}
        given = options(**ASKED)
        by_stratum = stratify(given, UNPRUNED, same, {}, strata, families(given, UNPRUNED, same, {}))
        assert isinstance(by_stratum, Stratified)
        assert sum(plan.own for plan in by_stratum.plans) == own


def test_the_promise_holds_in_all_strata_at_once():
    """40 samples of two kinds of rows, of which the model is sure in another way."""
    random, below = np.random.default_rng(0), 0

    def drawn(rows: int, shift: float):
        odds = random.normal(2, 2, rows)
        return -np.logaddexp(0, -odds), random.random(rows) < 1 / (1 + np.exp(-odds - shift))

    kinds = {"a": 2.0, "b": 0.5}
    truth = {kind: drawn(50_000, shift) for kind, shift in kinds.items()}
    for _ in range(40):
        said, strata = {}, {}
        for kind, shift in kinds.items():
            for number, (sure, right) in enumerate(zip(*drawn(300, shift), strict=True)):
                id = f"{kind}{number}"
                strata[id] = kind
                said[id] = answers({id: "red" if right else "blue"}).rows[id] | {"confidence": float(sure)}
        first, given = replace(answers({}), rows=said), options(**ASKED | {"min_agreement": 0.95})
        whole, labelled = answers(dict.fromkeys(said, "red")), {("adafv", 0.1): first}
        by_stratum = stratify(given, whole, labelled, {}, strata, families(given, whole, labelled, {}))
        assert by_stratum is not None and all(plan.own for plan in by_stratum.plans)
        below += any(
            np.where(truth[plan.stratum][0] < plan.cascade.threshold, 1, truth[plan.stratum][1]).mean() < 0.95
            for plan in by_stratum.plans
        )
    assert below <= 40 * ERROR + 2
