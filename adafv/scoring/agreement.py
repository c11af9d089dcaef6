"""How alike two answers to the same question are, from 0 to 1. Neither is right: the measures are symmetric.

exact       1 if they are equal as written
normalised  1 if they are equal as VQAv2 compares them
f1          SQuAD's F1 of their words, whatever their order
rouge-l     ROUGE-L's F1: of the longest sequence of words that both have in this order
"""

from __future__ import annotations

from collections.abc import Callable

from adafv.scoring import metrics

Agreement = Callable[[str, str], float]


def _by(metric: metrics.Metric) -> Agreement:
    """A metric with the other answer as its only reference."""
    return lambda one, other: metric(one, [other])


AGREEMENTS: dict[str, Agreement] = {
    "exact": lambda one, other: float(one == other),
    "normalised": _by(metrics.exact),
    "f1": _by(metrics.f1),
    "rouge-l": _by(metrics.rouge_l),
}
