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


def exact(one: str, other: str) -> float:
    return float(one == other)


def normalised(one: str, other: str) -> float:
    return metrics.exact(one, [other])


def f1(one: str, other: str) -> float:
    return metrics.f1(one, [other])


def rouge_l(one: str, other: str) -> float:
    return metrics.rouge_l(one, [other])


AGREEMENTS: dict[str, Agreement] = {"exact": exact, "normalised": normalised, "f1": f1, "rouge-l": rouge_l}
