"""Cascades of what a calibration has labelled."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from adafv.calibration.answers import Answers
from adafv.calibration.options import parse_command
from adafv.calibration.page import render
from adafv.calibration.second_looks import families
from adafv.calibration.summary import summary
from adafv.scoring.bounds import Estimate
from tests.calibration.made import answers, budget, calibration, options
from tests.parsing import parse_options
from tests.reporting.test_page import Page

IDS = [f"q{i:03d}" for i in range(600)]
UNPRUNED = answers(dict.fromkeys(IDS, "red"), seconds=0.05)
UNPRUNED = replace(UNPRUNED, rows={id: row | {"prompt_tokens": 200} for id, row in UNPRUNED.rows.items()})


def unsure(keep: float, share: float) -> Answers:
    """Wrong in a `share` of the answers, of which the model is not sure."""
    wrong = {id: number < share * len(IDS) for number, id in enumerate(IDS)}
    found = answers({id: "blue" if wrong[id] else "red" for id in IDS}, seconds=0.01 + 0.04 * keep)
    rows = {
        id: row | {"confidence": -1.0 if wrong[id] else -0.01, "prompt_tokens": 20 + int(180 * keep)}
        for id, row in found.rows.items()
    }
    return replace(found, rows=rows)


def calibrated(**values):
    given = options(strategies=("adafv",), keeps=(0.5, 0.1), min_agreement=0.98, **values)
    labelled = {("adafv", 0.5): unsure(0.5, 0.2), ("adafv", 0.1): unsure(0.1, 0.3)}
    found = families(given, UNPRUNED, labelled, {})
    budgets = [budget(keep, (0.75, 0.7, 0.8)) for keep in (0.5, 0.1)]
    return calibration(*budgets, families=found, strategies=("adafv",), keeps=(0.5, 0.1), min_agreement=0.98, **values)


def test_the_cheapest_pair_is_found():
    found = calibrated(price=3.6).cascade
    assert found is not None and (found.keep, found.escalate) == (0.1, 1.0)
    assert found.escalated_share == pytest.approx(0.3 - 0.02, abs=0.025) and -1.05 < found.threshold < -0.009
    assert found.low >= 0.98 and found.agreement >= 0.99
    assert found.tokens == pytest.approx(38 + 2 + found.escalated_share * 202)
    assert found.seconds == pytest.approx(0.014 + found.escalated_share * (0.05 - 0.002))


def test_rows_that_a_look_lacks_are_left_out():
    given = options(strategies=("adafv",), keeps=(0.1,), min_agreement=0.98)
    first = unsure(0.1, 0.3)
    rows = {id: row | {"confidence": None if id < "q100" else row["confidence"]} for id, row in first.rows.items()}
    del rows["q599"]
    [found] = families(given, UNPRUNED, {("adafv", 0.1): replace(first, rows=rows)}, {})
    assert found.cascades[-1].agreement == pytest.approx(1 - (180 - 100) / 499)
    old = {id: row | {"confidence": None} for id, row in first.rows.items()}
    assert families(given, UNPRUNED, {("adafv", 0.1): replace(first, rows=old)}, {}) == ()


def test_what_keeps_all_tokens_is_not_asked_again():
    """Such as a row without an image, however unsure the answer: a job doesn't, either."""
    given, first = options(strategies=("adafv",), keeps=(0.1,), min_agreement=0.98), unsure(0.1, 0.3)
    whole = {"confidence": -9.0, "visual_tokens": 0, "kept_tokens": 0, "prompt_tokens": 20, "answer": "red"}
    rows = {id: row | (whole if id >= "q540" else {}) for id, row in first.rows.items()}
    [found] = families(given, UNPRUNED, {("adafv", 0.1): replace(first, rows=rows)}, {})
    assert found.cascades[0].escalated_share == pytest.approx(540 / 600)
    assert found.cascades[0].tokens == pytest.approx((540 * (38 + 2 + 202) + 60 * (20 + 2)) / 600)
    assert found.chosen is not None and found.chosen.escalated_share <= 0.3


def test_a_second_keep_ratio_that_is_pruned_is_a_budget_too():
    given = options(strategies=("adafv",), keeps=(0.1,), escalates=(0.5, 1.0), min_agreement=0.98)
    assert [(one.strategy, one.keep) for one in given.candidates()] == [("none", 1.0), ("adafv", 0.1), ("adafv", 0.5)]
    labelled = {("adafv", 0.1): unsure(0.1, 0.3), ("adafv", 0.5): unsure(0.5, 0.2)}
    pairs = [(one.keep, one.escalate, one.chosen is not None) for one in families(given, UNPRUNED, labelled, {})]
    assert pairs == [(0.1, 0.5, False), (0.1, 1.0, True), (0.5, 1.0, True)]


def test_json_has_what_label_takes():
    found = calibrated(price=3.6).as_json()
    assert json.loads(json.dumps(found)) == found
    cascade = found["cascade"]
    assert set(cascade) == {
        "keep", "escalate", "threshold", "agreement", "low", "escalated_share", "cost_per_1000_usd"
    }  # fmt: skip
    assert cascade["cost_per_1000_usd"] == pytest.approx(0.014 + cascade["escalated_share"] * 0.048)
    assert calibrated().as_json()["cascade"]["cost_per_1000_usd"] is None
    read = parse_options(shlex.split(found["cascade_command"])[2:], "", "")
    assert (read.engine.keep, read.engine.escalate) == (cascade["keep"], cascade["escalate"])
    assert read.engine.escalate_below == cascade["threshold"]
    assert read.output == f"out/adafv-0.1-then-1-below{cascade['threshold']:g}"


def test_none_is_null_where_none_meets_the_demand():
    found = calibration(budget())
    assert found.as_json()["cascade"] is found.as_json()["cascade_command"] is None
    assert found.as_json()["cascades"] == [] and "second look" not in summary(found)


def test_the_summary_says_what_it_costs_beside_others():
    found = calibrated(price=3.6)
    text = summary(found)
    assert "second looks\n" in text and "asked again" in text and "2 pairs of keep ratios" in text
    assert "No fixed budget is shown to meet the target." in text and "less than the 122 unpruned" in text
    assert "none is recommended" not in text
    assert text.splitlines()[-2:] == ["next:", found.cascade_command]
    assert f"--escalate-below={found.cascade.threshold:g}" in text


def test_the_cheaper_way_is_the_one_to_run():
    found = calibrated()
    cheap = replace(found, budgets=(budget(0.5, (1.0, 0.99, 1.0), tokens=50.0),))
    assert cheap.next_command == cheap.command and "and 50 with the cheapest fixed budget" in summary(cheap)
    dear = replace(found, unpruned_tokens=60.0)
    assert dear.next_command is None and "next:" not in summary(dear) and ", unpruned 60." in summary(dear)


def test_the_page_draws_fixed_budgets_and_cascades_in_one_picture():
    found = Page(render(calibrated(price=3.6)))  # of two pairs, each of which has a label at its best
    text = " ".join(found.words)
    assert "adafv 0.1, then again" in text and f"{calibrated().cascade.escalated_share:.0%} again" in text
    assert sum(tag == "svg" for tag, _ in found.tags) == 1 and "--escalate-below=" in text


def test_what_is_asked_of_a_calibration():
    given = parse_command(["--input", "in", "--output", "work", "--escalate", "0.75,1"], "", "").options
    assert given.escalates == (0.75, 1.0) and given.job.engine.escalate is None
    assert parse_command(["--input", "in", "--output", "work"], "", "").options.escalates == (1.0,)


def test_answers_that_change_but_are_as_right_need_no_second_look():
    """All that is unsure is wrong unpruned, too, but for a tenth: a demand on accuracy asks far fewer again."""
    truth = {id: ("red",) if number >= 0.3 * len(IDS) else ("green",) for number, id in enumerate(IDS)}
    given = {"strategies": ("adafv",), "keeps": (0.1,), "answer_column": "answer"}
    first, found = unsure(0.1, 0.3), {}
    rows = {id: row | {"confidence": -2.0 if row["answer"] == "blue" else -0.01} for id, row in first.rows.items()}
    first = replace(first, rows=rows)
    for name, value in (("min_agreement", 0.98), ("max_accuracy_loss", 0.02), ("min_accuracy", 0.65)):
        [found[name]] = families(options(**given, **{name: value}), UNPRUNED, {("adafv", 0.1): first}, truth)
    shares = {name: each.chosen.escalated_share for name, each in found.items()}
    assert shares["min_agreement"] > 0.27 and shares["max_accuracy_loss"] == shares["min_accuracy"] == 0
    loss, least = found["max_accuracy_loss"].chosen, found["min_accuracy"].chosen
    assert loss.accuracy == least.accuracy == pytest.approx(0.7) and -0.02 <= loss.low < 0 and 0.65 <= least.low < 0.7
    assert loss.agreement == pytest.approx(0.7), "still said"


def test_rows_whose_right_answer_is_not_known():
    truth = dict.fromkeys(IDS[:400], ("red",))
    labelled = {("adafv", 0.1): unsure(0.1, 0.3)}
    given = {"strategies": ("adafv",), "keeps": (0.1,), "answer_column": "answer"}
    [agreeing] = families(options(**given, min_agreement=0.98), UNPRUNED, labelled, truth)
    [right] = families(options(**given, max_accuracy_loss=0.05), UNPRUNED, labelled, truth)
    assert agreeing.cascades[-1].agreement == pytest.approx(0.7), "of all rows"
    assert agreeing.cascades[-1].accuracy == right.cascades[-1].accuracy == pytest.approx(1 - 180 / 400)


def test_costs_are_of_all_rows_also_where_few_right_answers_are_known():
    """Here the right answers of short prompts only; what the unpruned model takes is of all rows as well."""
    truth = dict.fromkeys(IDS[:400], ("red",))
    first = unsure(0.1, 0.3)
    longer = {id: row | {"prompt_tokens": 1000} for id, row in first.rows.items() if id not in truth}
    labelled = {("adafv", 0.1): replace(first, rows=first.rows | longer)}
    given = options(strategies=("adafv",), keeps=(0.1,), answer_column="answer", max_accuracy_loss=0.05)
    [found] = families(given, UNPRUNED, labelled, truth)
    fewest = found.cascades[-1]
    assert fewest.escalated_share == 0 and fewest.tokens == pytest.approx((400 * 38 + 200 * 1000) / 600 + 2)
    alone = {("adafv", 0.1): replace(first, rows={id: first.rows[id] for id in truth})}
    [known] = families(given, UNPRUNED, alone, truth)
    assert [one.low for one in found.cascades] == [one.low for one in known.cascades], "no row shows more than it knows"


def test_the_page_and_the_summary_of_a_demand_on_accuracy():
    truth = dict.fromkeys(IDS, ("red",))
    asked = {"answer_column": "answer", "max_accuracy_loss": 0.03, "keeps": (0.1,)}
    found = families(options(**asked), UNPRUNED, {("adafv", 0.1): unsure(0.1, 0.3)}, truth)
    accuracy = {"accuracy": Estimate(0.7, 0.6, 0.8), "difference": Estimate(-0.3, -0.4, -0.2)}
    made = calibration(budget(0.1, (0.7, 0.6, 0.8), **accuracy), families=found, **asked)
    text = summary(made)
    assert "to unpruned at least" in text and "less than the unpruned model's, with 95 % confidence" in text
    assert made.as_json()["cascade"]["accuracy"] == made.cascade.accuracy
    assert sum(tag == "svg" for tag, _ in Page(render(made)).tags) == 2
