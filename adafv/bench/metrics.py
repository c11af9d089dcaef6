"""How right an answer is, by the measures that public data sets are scored with: 0 to 1, given the references.

    exact     the answer is one of the references, both normalised
    vqa       VQAv2's and TextVQA's accuracy over ten annotators, both normalised
    anls      average normalised Levenshtein similarity, of DocVQA and ST-VQA
    contains  one of the references stands in the answer, word for word, both normalised

Normalising is VQAv2's, written from its definition (https://visualqa.org/evaluation.html): lower case, no full stops
but decimal points, digits for number words, no articles, contractions with their apostrophe, other punctuation as a
space.
Captions of the testbed's scenes have their own measure, in `adafv.testbed.score`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]

VQA_AGREEING = 3  # as many annotators have to say what the answer says for it to count as right
VQA_FEWEST = VQA_AGREEING + 1  # annotators: each is left out in turn
ANLS_LEAST = 0.5  # texts that are no more alike than this have nothing to do with each other

_WORDS_FOR_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_WORDS_FOR_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
# Not those that are another word without their apostrophe (we're, she'll, I'd): there no one can tell.
_APOSTROPHES = """
    ain't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shouldn't wasn't
    weren't won't wouldn't aren't could've might've must've should've would've couldn't've hadn't've shouldn't've
    wouldn't've i've they've we've who've you've what've he'd've i'd've she'd've they'd've we'd've who'd've you'd've
    there'd've it'd they'd who'd you'd there'd i'm they're you're there're what're why're it'll that'll there'll
    they'll what'll who'll you'll he's she's here's there's that's what's when's where's who's how's why's let's
    somebody's someone's everyone's something's ma'am o'clock y'all 'tis 'twas
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _APOSTROPHES.split()}
_DELETED = re.compile(r"(?<=\d),(?=\d)|\.(?!\d)")  # thousands' commas; full stops
_SPACED = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!]")


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references."""
    return float(normalise(answer) in {normalise(reference) for reference in references})


def vqa(answer: str, references: Sequence[str]) -> float:
    """VQA accuracy: the mean, leaving out each annotator in turn, of min(matches / 3, 1).

    Raises:
        ValueError: fewer references than `VQA_FEWEST`: then no answer could be right.
    """
    if len(references) < VQA_FEWEST:
        raise ValueError(f"{len(references)} references; VQA accuracy needs {VQA_FEWEST} or more, and is made for ten")
    said = normalise(answer)
    matches = [normalise(reference) == said for reference in references]
    return sum(min((sum(matches) - match) / VQA_AGREEING, 1.0) for match in matches) / len(matches)


def anls(answer: str, references: Sequence[str]) -> float:
    """The similarity to the nearest reference: 1 - distance / length of the longer text, 0 if that is 0.5 or less."""
    said = " ".join(answer.lower().split())
    nearest = max(_similarity(said, " ".join(reference.lower().split())) for reference in references)
    return nearest if nearest > ANLS_LEAST else 0.0


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if the words of one of the references stand together in the answer."""
    said = f" {normalise(answer)} "
    return float(any(f" {normalise(reference)} " in said for reference in references))


METRICS: dict[str, Metric] = {"exact": exact, "vqa": vqa, "anls": anls, "contains": contains}


def normalise(text: str) -> str:
    """`text` as VQAv2 compares it. An answer that is nothing but an article stays: it may be a choice's letter."""
    plain = _SPACED.sub(" ", _DELETED.sub("", text.lower()))
    words = [_NUMBERS.get(word, _CONTRACTIONS.get(word, word)) for word in plain.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - _distance(one, other) / longest if longest else 1.0


def _distance(one: str, other: str) -> int:
    """Levenshtein's: how many characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, character in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (character != wanted))
    return row[-1]
