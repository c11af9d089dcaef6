"""Every labelled pair of keep ratios, as families of cascades. A pair is compared on the rows that the unpruned
model and both looks labelled, with a known first confidence. For a demand on accuracy, those of them with a known right
answer show it, but what a pair takes is of all, as what the unpruned model takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from adafv.calibration.answers import Answers
from adafv.calibration.budgets import SEED
from adafv.calibration.cascades import LEADS, THRESHOLDS, BudgetAnswers, CascadeFamily, family
from adafv.calibration.demand import accuracy
from adafv.calibration.options import CalibrationOptions
from adafv.calibration.truth import Truth
from adafv.scoring.agreement import AGREEMENTS

Labelled = Mapping[tuple[str, float], Answers]  # by strategy and keep ratio


def families(
    options: CalibrationOptions,
    unpruned: Answers,
    labelled: Labelled,
    truth: Truth,
    only: Collection[str] | None = None,
    strata: int = 1,
) -> tuple[CascadeFamily, ...]:
    """All pairs of a first keep ratio and a larger second one, for each strategy.

    Args:
        only: ids of the rows to use, if not all; `strata`: in how many such parts the promise must hold.
    """
    demand, rows = options.demand, unpruned.rows if only is None else only
    pairs = [(first, again) for first in labelled for again in options.escalates if first[1] < again]
    found = []
    for (strategy, keep), again in pairs:
        first, second = labelled[strategy, keep], unpruned if again == 1 else labelled[strategy, again]
        both = first.rows.keys() & second.rows.keys()
        ids = [id for id in sorted(rows) if id in both and first.rows[id]["confidence"] is not None]
        counted = np.array([id in truth or not demand.needs_truth for id in ids], dtype=bool)
        if not ids:
            continue
        images = [unpruned.rows[id]["image"] for id, counts in zip(ids, counted, strict=True) if counts]
        bounds = demand.bounds(images, SEED)
        one, other = (_answers(options, unpruned, truth, *each, ids) for each in ((keep, first), (again, second)))
        thresholds = LEADS if options.job.chooses else THRESHOLDS
        found.append(family(strategy, one, other, bounds, demand, len(pairs) * strata, thresholds, counted))
    return tuple(found)


def _answers(
    options: CalibrationOptions, unpruned: Answers, truth: Truth, keep: float, answers: Answers, ids: list[str]
) -> BudgetAnswers:
    rows, agreement = [answers.rows[id] for id in ids], AGREEMENTS[options.agreement]
    said, whole = [row["answer"] for row in rows], [unpruned.rows[id]["answer"] for id in ids]
    references = [truth.get(id, ()) for id in ids]
    known = np.array([bool(each) for each in references])
    assert answers.seconds is not None  # there is an answer
    prompts = np.array([row["prompt_tokens"] for row in rows])
    # There are no more tokens to show: a job doesn't ask such a row again.
    sees_all = np.array([row["kept_tokens"] == row["visual_tokens"] for row in rows])
    return BudgetAnswers(
        keep=keep,
        scores=options.demand.scores(said, whole, references),
        agrees=np.array([agreement(one, other) for one, other in zip(whole, said, strict=True)]),
        right=np.where(known, accuracy(options.metric, said, references), np.nan) if known.any() else None,
        confidence=np.where(sees_all, np.inf, np.array([row["confidence"] for row in rows], dtype=np.float64)),
        tokens=prompts + np.array([row["output_tokens"] for row in rows]),
        prompt_tokens=prompts,
        seconds=answers.seconds,
        again=answers.seconds - answers.encode_seconds,
    )
