"""The definitions of DESIGN, written out slowly and literally, one sample at a time, in exact integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


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
