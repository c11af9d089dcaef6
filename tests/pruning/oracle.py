"""The definitions, written out slowly and literally, one sample at a time.

The mixtures are in exact integer arithmetic, the selections by cosines in Python's floats.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np


def order(cue: Sequence[float]) -> list[int]:
    """Tokens in descending order of the cue, ties to the lower index."""
    return sorted(range(len(cue)), key=lambda token: (-cue[token], token))


def mix(saliency: Sequence[int], similarity: Sequence[int], keep: int) -> tuple[set[int], int, int]:
    """Try every pair (i, j); of those that fill the budget take the best as the definition ranks them."""
    by_text, by_saliency = order(similarity), order(saliency)
    tokens, least = len(saliency), keep // 4
    best: tuple[int, int, int] | None = None
    for i in range(least, tokens + 1):
        fitting = [j for j in range(least, tokens + 1) if len(set(by_text[:i]) | set(by_saliency[:j])) == keep]
        if not fitting:
            continue
        j = max(fitting)
        value = sum(similarity[t] for t in by_text[:i]) * sum(saliency[t] for t in by_saliency[:j])
        best = max(best, (value, i, j)) if best else (value, i, j)
    assert best is not None, "no admissible pair"
    _, i, j = best
    return set(by_text[:i]) | set(by_saliency[:j]), i, j


def mix_paper(saliency: Sequence[int], similarity: Sequence[int], keep: int) -> tuple[set[int], int, int]:
    """Reserve, divide the rest by the product of the rest's sums, drop duplicates."""
    by_text, by_saliency = order(similarity), order(saliency)
    least = keep // 4
    rest = keep - 2 * least
    _, more = max(
        (
            sum(similarity[t] for t in by_text[least : least + i])
            * sum(saliency[t] for t in by_saliency[least : least + rest - i]),
            i,
        )
        for i in range(rest + 1)
    )
    i, j = least + more, least + rest - more
    return set(by_text[:i]) | set(by_saliency[:j]), i, j


# Selections by a sequence of choices return their margin as well: by how little a choice was made. Where that is no
# more than rounding, float32 may rightly choose otherwise.
Margin = float


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    """0 where either has no length."""
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def best(scores: dict[int, float]) -> tuple[int, Margin]:
    """The token with the largest score, ties to the lower index, and how far the next score lies below."""
    token = min(scores, key=lambda t: (-scores[t], t))
    return token, min((scores[token] - score for score in scores.values() if score != scores[token]), default=math.inf)


def divprune(visual: Sequence[Sequence[float]], keep: int) -> tuple[set[int], Margin]:
    tokens = range(len(visual))
    far = [[1 - cosine(visual[i], visual[j]) for j in tokens] for i in tokens]
    first, margin = best({i: min((far[i][j] for j in tokens if j != i), default=math.inf) for i in tokens})
    chosen = {first}
    while len(chosen) < keep:
        token, by = best({i: min(far[i][j] for j in chosen) for i in tokens if i not in chosen})
        chosen, margin = chosen | {token}, min(margin, by)
    return chosen, margin


def scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


def mean_cosine(text: Sequence[Sequence[float]], visual: Sequence[Sequence[float]]) -> list[float]:
    return [sum(cosine(word, token) for word in text) / len(text) for token in visual]


def cdpruner(visual: Sequence[Sequence[float]], relevance: Sequence[float], keep: int) -> tuple[set[int], Margin]:
    """Each token added is the one that leaves the largest determinant of L; those that would leave none come last."""
    tokens, r = range(len(visual)), scaled(relevance)
    cosines = np.array([[cosine(x, y) for y in visual] for x in visual])
    chosen: list[int] = []
    independent: list[int] = []
    margin = math.inf
    while len(chosen) < keep:
        before = np.linalg.det(cosines[np.ix_(independent, independent)])
        scores, outside = {}, {}
        for i in set(tokens) - set(chosen):
            among = [*independent, i]
            outside[i] = np.linalg.det(cosines[np.ix_(among, among)]) / before
            margin = min(margin, abs(outside[i] - 1e-5) * 100)  # whether it lies in the span must be clear as well
            scores[i] = r[i] ** 2 * outside[i] if outside[i] > 1e-5 else r[i] - 2
        token, by = best(scores)
        margin = min(margin, by)
        chosen.append(token)
        if scores[token] >= 0:
            margin = min(margin, outside[token] / 1000)  # after one that hardly adds a direction, rounding adds others
            independent.append(token)
    return set(chosen), margin


def entropy(cosines: Sequence[float]) -> float:
    """Of softmax(100 · cosines)."""
    weights = [math.exp(100 * (value - max(cosines))) for value in cosines]
    shares = [weight / sum(weights) for weight in weights]
    return -sum(p * math.log(p) for p in shares if p)


def focused_margin(text: Sequence[Sequence[float]], visual: Sequence[Sequence[float]], share: float = 0.5) -> float:
    """By how much the entropies of the words that are kept, and of those that aren't, are apart."""
    entropies = sorted(entropy([cosine(word, token) for token in visual]) for word in text)
    count = max(1, int(len(text) * share))
    return entropies[count] - entropies[count - 1] if count < len(text) else math.inf


def focused_cosine(
    text: Sequence[Sequence[float]], visual: Sequence[Sequence[float]], share: float = 0.5
) -> list[float]:
    cosines = [[cosine(word, token) for token in visual] for word in text]
    entropies = [entropy(row) for row in cosines]
    kept = sorted(range(len(text)), key=lambda m: (entropies[m], m))[: max(1, int(len(text) * share))]
    weights = [math.exp(-100 * (entropies[m] - min(entropies))) for m in kept]
    return [
        sum(weight * cosines[m][n] for weight, m in zip(weights, kept, strict=True)) / sum(weights)
        for n in range(len(visual))
    ]


def blurred(score: Sequence[float], panels: Sequence[tuple[int, int]]) -> list[float]:
    """Panels of (rows, columns), one after the other."""
    out: list[float] = []
    for rows, columns in panels:
        start = len(out)
        for row, column in itertools.product(range(rows), range(columns)):
            around = {
                (y, x): math.exp(-((y - row) ** 2 + (x - column) ** 2) / 2)
                for y in range(max(0, row - 1), min(rows, row + 2))
                for x in range(max(0, column - 1), min(columns, column + 2))
            }
            total = sum(weight * score[start + y * columns + x] for (y, x), weight in around.items())
            out.append(total / sum(around.values()))
    return out


def eadp(
    whole: Sequence[float],
    focused: Sequence[float],
    visual: Sequence[Sequence[float]],
    panels: Sequence[tuple[int, int]],
    keep: int,
    power: int = 5,
) -> tuple[set[int], Margin]:
    """`whole` and `focused` are each token's cosines with the question as a whole and with its telling words."""
    tokens = range(len(visual))
    mixed = [(one + other) / 2 for one, other in zip(whole, focused, strict=True)]
    weight = [value**power for value in blurred(scaled(mixed), panels)]
    chosen: set[int] = set()
    margin = math.inf
    while len(chosen) < keep:
        token, by = best(
            {
                i: sum(weight[j] * max(cosine(visual[s], visual[j]) for s in chosen | {i}) for j in tokens)
                for i in tokens
                if i not in chosen
            }
        )
        chosen, margin = chosen | {token}, min(margin, by / sum(weight))
    return chosen, margin


def eadp_code(
    text: Sequence[Sequence[float]], visual: Sequence[Sequence[float]], panels: Sequence[tuple[int, int]], keep: int
) -> tuple[set[int], Margin]:
    mean = [sum(channel) / len(text) for channel in zip(*text, strict=True)]
    whole = [-cosine(mean, token) for token in visual]
    away = [[-value for value in token] for token in visual]
    kept, margin = eadp(whole, focused_cosine(text, away, 0.2), visual, panels, keep, 2)
    return kept, min(margin, focused_margin(text, away, 0.2))


def scope(saliency: Sequence[float], hidden: Sequence[Sequence[float]], keep: int) -> tuple[set[int], Margin]:
    tokens = range(len(hidden))
    chosen: set[int] = set()
    margin = math.inf
    while len(chosen) < keep:
        covered = [max((cosine(hidden[s], hidden[j]) for s in chosen), default=0.0) for j in tokens]
        covered = [max(0.0, value) for value in covered]
        scores = {
            i: saliency[i] * sum(max(0.0, cosine(hidden[i], hidden[j]) - covered[j]) for j in tokens)
            for i in tokens
            if i not in chosen
        }
        token, by = best(scores)
        chosen, margin = chosen | {token}, min(margin, by)
    return chosen, margin


def visionzip(
    saliency: Sequence[int], keys: Sequence[Sequence[float]], hidden: Sequence[Sequence[float]], keep: int
) -> tuple[set[int], dict[int, list[float]], Margin]:
    """What is kept, and what the targets became that others were merged into."""
    contextual = math.floor(keep * 10 / 64 + 0.5)
    dominant = set(order(saliency)[: keep - contextual])
    rest = [t for t in range(len(saliency)) if t not in dominant]
    stride = max(1, len(rest) // contextual) if contextual else 1
    targets = rest[::stride][:contextual]
    groups: dict[int, list[int]] = {}
    margin = math.inf
    for token in rest:
        if targets and token not in targets:
            nearest, by = best({target: cosine(keys[token], keys[target]) for target in targets})
            groups.setdefault(nearest, []).append(token)
            margin = min(margin, by)
    became = {
        target: [own + sum(hidden[t][d] for t in group) / len(group) for d, own in enumerate(hidden[target])]
        for target, group in groups.items()
    }
    return dominant | set(targets), became, margin


def presence(saliency: Sequence[float]) -> list[float]:
    total = sum(saliency)
    return [1 / len(saliency) + (4 * salient / total if total else 0) for salient in saliency]


def question(
    text: Sequence[Sequence[float]], visual: Sequence[Sequence[float]], panels: Sequence[tuple[int, int]]
) -> list[float]:
    asked = [0.0] * len(visual)
    for word in text:
        cosines = [cosine(word, token) for token in visual]
        low, high, middle = min(cosines), max(cosines), statistics.median_low(cosines)
        gate = max(0.0, (high + low - 2 * middle) / (high - low)) if high > low else 0.0
        weights = [math.exp(16 * (value - high)) for value in cosines]
        asked = [max(old, gate * weight / sum(weights)) for old, weight in zip(asked, weights, strict=True)]
    return [5 * share for share in blurred(asked, panels)]


def coverage(
    visual: Sequence[Sequence[float]],
    present: Sequence[float],
    asked: Sequence[float],
    keep: int,
    block: int = 48,
    rounds: int = 6,
    at_once: int = 24,
    looked_at: int = 48,
) -> tuple[set[int], Margin]:
    tokens = range(len(visual))
    alike = [[max(0.0, cosine(visual[i], visual[j])) ** 6 for j in tokens] for i in tokens]
    rounds = max(rounds, math.ceil(keep / at_once))
    chosen: set[int] = set()
    margin = math.inf

    def covered(token: int, wanted: Sequence[float], power: int, discount: float) -> float:
        return sum(
            alike[token][j] ** power * wanted[j] / (1 + sum(alike[s][j] ** power for s in chosen)) ** discount
            for j in tokens
            if j // block == token // block
        )

    for done in range(rounds):
        due = keep * (done + 1) // rounds - keep * done // rounds
        falls = 1.6 * math.sqrt(len(visual) / keep)
        gains = {i: covered(i, present, 1, falls) + covered(i, asked, 2, 4) for i in tokens if i not in chosen}
        looked = sorted(gains, key=lambda i: (-gains[i], i))[:looked_at]
        worth = {
            i: gains[i] * (1 - max((alike[i][j] for j in looked[:rank]), default=0)) for rank, i in enumerate(looked)
        }
        taken = sorted(looked, key=lambda i: -worth[i])[:due]
        if due:
            margin = min(margin, clear(gains.values(), looked_at if due > 1 else 1), clear(worth.values(), due))
        chosen |= set(taken)
    return chosen, margin


def for_text(
    visual: Sequence[Sequence[float]], present: Sequence[float], asked: Sequence[float], block: int
) -> dict[int, float]:
    """By how much each token covers what is asked for more than what is there."""
    tokens = range(len(visual))
    alike = [[max(0.0, cosine(visual[i], visual[j])) ** 6 for j in tokens] for i in tokens]
    near = {i: [j for j in tokens if j // block == i // block] for i in tokens}
    return {i: sum(alike[i][j] ** 2 * asked[j] - alike[i][j] * present[j] for j in near[i]) for i in tokens}


def clear(scores: Iterable[float], count: int) -> Margin:
    """By how little, of its size, one of the `count` largest scores differs from the next that isn't equal to it."""
    ordered = sorted(scores, reverse=True)
    pairs = itertools.pairwise(ordered[: count + 1])
    return min(((high - low) / high for high, low in pairs if high != low), default=math.inf)
