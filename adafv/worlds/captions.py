"""What a caption names, held against what is there. Things are names; a name given twice is one more thing to F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def f1(said: Sequence[str], there: Sequence[str]) -> float:
    """In whatever order; a thing named twice is right once and wrong once."""
    common = (Counter(said) & Counter(there)).total()
    return 2 * common / (len(said) + len(there)) if common else 0.0


def hallucinated(said: Sequence[str], there: Sequence[str]) -> float:
    """Which share of the things named isn't there; 0 where nothing is named."""
    return len(set(said) - set(there)) / len(set(said)) if said else 0.0


def recalled(said: Sequence[str], there: Sequence[str]) -> float:
    """Which share of the things there is named; at least one must be there."""
    return len(set(said) & set(there)) / len(set(there))
