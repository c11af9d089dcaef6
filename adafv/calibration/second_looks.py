"""Every pair of keep ratios that a calibration has labelled, as families of cascades.

A pair is compared on the rows that the unpruned model and both of its looks labelled, and of whose first answer the
confidence is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adafv.calibration.answers import Answers
from adafv.calibration.budgets import SEED
from adafv.calibration.cascades import LEADS, THRESHOLDS, BudgetAnswers, CascadeFamily, family
from adafv.calibration.options import CalibrationOptions
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bounds import Bounds

Labelled = Mapping[tuple[str, float], Answers]  # by strategy and keep ratio


def families(options: CalibrationOptions, unpruned: Answers, labelled: Labelled) -> tuple[CascadeFamily, ...]:
    """All pairs of a first keep ratio and a larger second one, of each strategy."""
    pairs = [(first, again) for first in labelled for again in options.escalates if first[1] < again]
    found = []
    for (strategy, keep), again in pairs:
        first, second = labelled[strategy, keep], unpruned if again == 1 else labelled[strategy, again]
        ids = [id for id in sorted(unpruned.rows) if id in second.rows and _confidence(first, id) is not None]
        if not ids:
            continue
        bounds = Bounds([unpruned.rows[id]["image"] for id in ids], SEED)
        one, other = (_answers(options, unpruned, *each, ids) for each in ((keep, first), (again, second)))
        thresholds = LEADS if options.job.chooses else THRESHOLDS
        found.append(family(strategy, one, other, bounds, options.min_agreement, len(pairs), thresholds))
    return tuple(found)


def _confidence(answers: Answers, id: str) -> float | None:
    return answers.rows[id]["confidence"] if id in answers.rows else None


def _answers(
    options: CalibrationOptions, unpruned: Answers, keep: float, answers: Answers, ids: list[str]
) -> BudgetAnswers:
    agreement, rows = AGREEMENTS[options.agreement], [answers.rows[id] for id in ids]
    assert answers.seconds is not None  # there is an answer
    prompts = np.array([row["prompt_tokens"] for row in rows])
    return BudgetAnswers(
        keep=keep,
        agrees=np.array([agreement(unpruned.rows[row["id"]]["answer"], row["answer"]) for row in rows]),
        confidence=np.array([row["confidence"] for row in rows], dtype=np.float64),
        tokens=prompts + np.array([row["output_tokens"] for row in rows]),
        prompt_tokens=prompts,
        seconds=answers.seconds,
        again=answers.seconds - answers.encode_seconds,
    )
