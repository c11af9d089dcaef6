"""How far a candidate's answers agree with the unpruned ones, how right they are, and what they took. Rows are
matched by id; a row that either side rejected is left out and counted. Questions about one image depend on each
other, so intervals are drawn over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adafv.calibration.answers import Answers
from adafv.calibration.demand import LOSS, Demand, accuracy
from adafv.calibration.options import CalibrationOptions, Candidate
from adafv.calibration.truth import Truth
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bounds import Bounds, Estimate

SEED = 0
EXAMPLES = 10


@dataclass(frozen=True)
class Change:
    """A row with another answer: the question, and the answers unpruned and pruned."""

    id: str
    question: str
    unpruned: str
    pruned: str


@dataclass(frozen=True)
class Budget:
    """A candidate compared with the unpruned model. Intervals hold 95 %.

    Attributes:
        compared: rows that both labelled; `left_out`: rows of the sample that one of them rejected.
        agreements: with the unpruned answers, by measure.
        demanded: the figure that the demand is on (`Demand`).
        best: `demanded` if all answers were the unpruned ones: this sample can't show more.
        answered: rows with a known right answer; `accuracy`: theirs; `difference`: to the unpruned accuracy.
        seconds: of a worker, per sample; `tokens`: those of the language model, prompt and answer.
        changes: some of the rows that agree least.
    """

    candidate: Candidate
    compared: int
    left_out: int
    agreements: dict[str, Estimate]
    demanded: Estimate
    best: Estimate
    answered: int
    accuracy: Estimate | None
    difference: Estimate | None
    seconds: float
    kept_tokens: float
    visual_tokens: float
    tokens: float
    changes: tuple[Change, ...]

    @property
    def strategy(self) -> str:
        return self.candidate.strategy

    @property
    def keep(self) -> float:
        return self.candidate.keep


class Comparison:
    """The unpruned answers, with which all candidates are compared.

    Args:
        drawn: rows in the sample.

    Attributes:
        images: how many images the unpruned answers are about.
        accuracy: of the unpruned answers, if right ones are known.
    """

    def __init__(self, options: CalibrationOptions, unpruned: Answers, truth: Truth, drawn: int) -> None:
        self._options, self._unpruned, self._drawn = options, unpruned, drawn
        self._ids = sorted(unpruned.rows)
        clusters = [unpruned.rows[id]["image"] for id in self._ids]
        self.images = len(set(clusters))
        self._bounds = Bounds(clusters, SEED)
        self._references = [truth.get(id, ()) for id in self._ids]
        self._known = np.array([id in truth for id in self._ids], dtype=bool)
        self._points = self._scored(unpruned)
        self.accuracy = self._bounds.mean(self._points, self._known) if self._known.any() else None

    def budget(self, candidate: Candidate, answers: Answers) -> Budget:
        """At least one row must have been labelled by both."""
        both = np.array([id in answers.rows for id in self._ids], dtype=bool)
        unpruned, pruned = (self._said(one, both) for one in (self._unpruned, answers))
        pairs = list(zip(unpruned, pruned, strict=True))
        values = {name: np.array([measure(one, other) for one, other in pairs]) for name, measure in AGREEMENTS.items()}
        known, points = both & self._known, self._scored(answers)
        demand = self._options.demand
        counted = known if demand.needs_truth else both
        demanded, best = (
            demand.estimate(self._bounds.mean(demand.scores(said, unpruned, self._references), counted))
            for said in (pruned, unpruned)
        )
        assert answers.seconds is not None  # there is an answer
        return Budget(
            candidate=candidate,
            compared=int(both.sum()),
            left_out=self._drawn - int(both.sum()),
            agreements={name: self._bounds.mean(each, both) for name, each in values.items()},
            demanded=demanded,
            best=best,
            answered=int(known.sum()),
            accuracy=self._bounds.mean(points, known) if known.any() else None,
            difference=self._difference(points, known) if known.any() else None,
            seconds=answers.seconds,
            kept_tokens=answers.kept_tokens,
            visual_tokens=answers.visual_tokens,
            tokens=answers.tokens,
            changes=self._changes(values[self._options.agreement], answers),
        )

    def _difference(self, points: np.ndarray, chosen: np.ndarray) -> Estimate:
        """To the unpruned accuracy: no point, even if all answers are as right as before."""
        scores = self._bounds.mean((1 + points - self._points) / 2, chosen)
        return Demand(self._options.metric, 0.0, LOSS).estimate(scores)

    def _scored(self, answers: Answers) -> np.ndarray:
        """float64 [R]: how right the answers are, 0 if unknown."""
        labelled = np.array([id in answers.rows for id in self._ids], dtype=bool)
        right = accuracy(self._options.metric, self._said(answers, labelled), self._references)
        return np.where(labelled, right, 0.0)

    def _said(self, answers: Answers, there: np.ndarray) -> list[str]:
        """The answers, empty where there is none."""
        return [answers.rows[id]["answer"] if one else "" for id, one in zip(self._ids, there, strict=True)]

    def _changes(self, values: np.ndarray, answers: Answers) -> tuple[Change, ...]:
        """Rows that don't agree, those that agree least first."""
        order = [number for number in np.argsort(values, kind="stable") if values[number] < 1][:EXAMPLES]
        ids = [self._ids[number] for number in order]
        rows = ((self._unpruned.rows[id], answers.rows[id]["answer"]) for id in ids)
        return tuple(Change(row["id"], row["question"] or "", row["answer"], pruned) for row, pruned in rows)
