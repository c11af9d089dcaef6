"""What answers must reach: a mean of scores from 0 to 1 over the rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.betting import Betting
from adafv.scoring.bounds import TAIL, Bounds, Estimate, floored, rows_to_show
from adafv.scoring.metrics import METRICS

AGREEMENT, ACCURACY, LOSS = "agreement", "accuracy", "loss"
BINARY = ("exact", "normalised", "contains")  # measures that give 0 or 1


@dataclass(frozen=True)
class Demand:
    """An agreement with the unpruned answers, or an accuracy, of at least `least`; or a largest loss of accuracy, with
    `least` its negative.

    Attributes:
        measure: compares two answers (`AGREEMENTS`), or one with the right ones (`METRICS`).
        of: `AGREEMENT`, `ACCURACY` or `LOSS`.
    """

    measure: str
    least: float
    of: str = AGREEMENT

    @property
    def needs_truth(self) -> bool:
        return self.of != AGREEMENT

    @property
    def least_score(self) -> float:
        """The mean score to reach."""
        return (1 + self.least) / 2 if self.of == LOSS else self.least

    def scores(
        self, answers: Sequence[str], unpruned: Sequence[str], references: Sequence[tuple[str, ...]]
    ) -> np.ndarray:
        """float64 [R], from 0 to 1; for a loss, 0.5 if the answer is as right as the unpruned one. 0 if needed right
        answers are unknown."""
        if self.of == AGREEMENT:
            agreement = AGREEMENTS[self.measure]
            return np.array([agreement(one, other) for one, other in zip(unpruned, answers, strict=True)])
        right = accuracy(self.measure, answers, references)
        return right if self.of == ACCURACY else (1 + right - accuracy(self.measure, unpruned, references)) / 2

    def figure(self, score: float) -> float:
        """The agreement, accuracy, or difference in accuracy that a mean score stands for."""
        return 2 * score - 1 if self.of == LOSS else score

    def estimate(self, scores: Estimate) -> Estimate:
        return Estimate(*(self.figure(score) for score in (scores.value, scores.low, scores.high)))

    def bounds(self, clusters: Sequence[Hashable], seed: int) -> Bounds | Betting:
        """Lower bounds for the scores: exact for 0 and 1, proven for values in between."""
        exact = self.measure in BINARY and self.of != LOSS
        return Bounds(clusters, seed) if exact else Betting(clusters, seed)

    def fewest_rows(self, tail: float = TAIL) -> int | None:
        """How many rows, each on its own image, could show it if all answers were the unpruned ones. None if that
        depends on how right these are."""
        if self.of == ACCURACY:
            return None
        return rows_to_show(1 + self.least if self.of == LOSS else self.least, tail)

    def __str__(self) -> str:
        if self.of == AGREEMENT:
            return f"{self.measure} agreement with the unpruned answers of {self.least:g} or more"
        if self.of == ACCURACY:
            return f"accuracy ({self.measure}) of {self.least:g} or more"
        return f"accuracy ({self.measure}) of at most {-self.least:g} less than the unpruned model's"

    def promise(self, low: float) -> str:
        """A sentence: what is shown by a lower end."""
        if self.of == AGREEMENT:
            return f"It agrees {share(low)} or more"
        if self.of == ACCURACY:
            return f"Its accuracy is {share(low)} or more"
        return f"Its accuracy is at most {max(0.0, -floored(low)):.4f} less than the unpruned model's"


def accuracy(metric: str, answers: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
    """float64 [R]: how right each answer is, 0 if unknown."""
    measure = METRICS[metric]
    return np.array([measure(one, right) if right else 0.0 for one, right in zip(answers, references, strict=True)])


def share(value: float) -> str:
    return f"{floored(value):.4f}"
