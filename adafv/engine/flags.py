"""What a reader of an answer would notice at once: that it repeats itself, was cut off, is empty, or refuses."""

from __future__ import annotations

import re

LOOP, CUT, EMPTY, REFUSAL = FLAGS = ("loop", "cut", "empty", "refusal")

_LONGEST = 40  # words of what is repeated
_WORDS, _TIMES = 10, 3  # that repetitions have at least, all together, and how many there are at least
_LETTERS = re.compile(r"(\S{1,20}?)\1{11}")  # without spaces between
_REFUSES = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry,|i (can['\u2019]?t|cannot|can not|won['\u2019]?t|will not)\b|"
    r"i am (unable|not able)\b|"
    r"i['\u2019]m (unable|not able)\b|as an ai\b|unfortunately,? i (can|am)|i apologi[sz]e)",
    re.IGNORECASE,
)


def flags_of(answer: str, finish_reason: str) -> tuple[str, ...]:
    """The flags of an answer, in the order of `FLAGS`. Refusals are known by how they begin in English."""
    found = {
        LOOP: _repeats(answer.split()) or _LETTERS.search(answer) is not None,
        CUT: finish_reason == "length",
        EMPTY: not answer.strip(),
        REFUSAL: _REFUSES.match(answer.lstrip()) is not None,
    }
    return tuple(flag for flag in FLAGS if found[flag])


def _repeats(words: list[str]) -> bool:
    """Whether some words stand there again and again, one time right after the other."""
    for length in range(1, min(_LONGEST, len(words) // _TIMES) + 1):
        same = 0
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same >= max(length * (_TIMES - 1), _WORDS - length):
                return True
    return False
