"""How right an answer is, from 0 to 1, by the measures of public data sets.

    exact     the answer is one of the references, both normalised
    vqa       accuracy over ten annotators (VQAv2, TextVQA), both normalised
    anls      average normalised Levenshtein similarity (DocVQA, ST-VQA)
    contains  a reference occurs in the answer, word for word, both normalised
    f1        F1 of the words in any order, without articles and punctuation (SQuAD)
    rouge-l   F1 of the longest common subsequence of words (ROUGE-L)

The nearest of several references counts. For the last two, two texts without words are equal.

Normalising is VQAv2's, written from its definition (https://visualqa.org/evaluation.html): lower case, no full stops
except decimal points, digits for number words, no articles, contractions with apostrophes, other punctuation as spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rapidfuzz.distance import LCSseq, Levenshtein

Metric = Callable[[str, Sequence[str]], float]

VQA_AGREEING = 3  # annotators who must agree with a right answer
VQA_FEWEST = VQA_AGREEING + 1  # annotators, since each is left out in turn
ANLS_LEAST = 0.5  # less similar texts are unrelated

_WORDS_FOR_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_WORDS_FOR_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
# Except those that are another word without the apostrophe (we're, she'll, I'd).
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
_WORD = re.compile(r"[^\W_]+")
_SQUAD_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_SPACED = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!]")


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references."""
    return float(normalise(answer) in {normalise(reference) for reference in references})


def vqa(answer: str, references: Sequence[str]) -> float:
    """VQA accuracy: the mean, leaving out each annotator in turn, of min(matches / 3, 1).

    Raises:
        ValueError: there are fewer than `VQA_FEWEST` references, so no answer could be right.
    """
    if len(references) < VQA_FEWEST:
        raise ValueError(f"{len(references)} references; VQA accuracy needs {VQA_FEWEST} or more, and is made for ten")
    said = normalise(answer)
    matches = [normalise(reference) == said for reference in references]
    return sum(min((sum(matches) - match) / VQA_AGREEING, 1.0) for match in matches) / len(matches)


def anls(answer: str, references: Sequence[str]) -> float:
    """Similarity to the nearest reference: 1 - distance / length of the longer text; 0 up to 0.5."""
    said = " ".join(answer.lower().split())
    nearest = max(
        Levenshtein.normalized_similarity(said, " ".join(reference.lower().split())) for reference in references
    )
    return nearest if nearest > ANLS_LEAST else 0.0


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if a reference occurs in the answer, word for word."""
    said = f" {normalise(answer)} "
    return float(any(f" {normalise(reference)} " in said for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """SQuAD's F1 of the words, for the nearest reference."""
    said = _squad_words(answer)
    others = map(_squad_words, references)
    return max(_f1((Counter(said) & Counter(words)).total(), said, words) for words in others)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L's F1, for the nearest reference. Words are those of any script, without case or stemming."""
    said = _WORD.findall(answer.lower())
    others = (_WORD.findall(reference.lower()) for reference in references)
    return max(_f1(LCSseq.similarity(said, words), said, words) for words in others)


METRICS: dict[str, Metric] = {
    "exact": exact, "vqa": vqa, "anls": anls, "contains": contains, "f1": f1, "rouge-l": rouge_l,
}  # fmt: skip


def references_of(value: Any) -> tuple[str, ...]:
    """The right answers in a column's value; none if it has none. A whole float has no point: pandas makes floats of
    integers beside missing values, and of these NaN, which isn't equal to itself."""
    values = value if isinstance(value, list) else [value]
    texts = [each.get("answer") if isinstance(each, dict) else each for each in values]
    if any(isinstance(text, bool) or not isinstance(text, str | int | float) or text != text for text in texts):
        return ()
    references = tuple(f"{text:.0f}" if isinstance(text, float) and text.is_integer() else str(text) for text in texts)
    return references if any(reference.strip() for reference in references) else ()


def normalise(text: str) -> str:
    """`text` as VQAv2 compares it. An answer that is only an article stays: it may be a choice's letter."""
    plain = _SPACED.sub(" ", _DELETED.sub("", text.lower()))
    words = [_NUMBERS.get(word, _CONTRACTIONS.get(word, word)) for word in plain.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _squad_words(text: str) -> list[str]:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return _SQUAD_ARTICLE.sub(" ", plain).split()


def _f1(common: int, words: Sequence[str], others: Sequence[str]) -> float:
    """2 · precision · recall / (precision + recall)."""
    return 2 * common / (len(words) + len(others)) if words or others else 1.0
