"""How right an answer is, by the measures that public data sets are scored with: 0 to 1, given the references.

    exact     the answer is one of the references, both normalised
    vqa       VQAv2's and TextVQA's accuracy over ten annotators, both normalised
    anls      average normalised Levenshtein similarity, of DocVQA and ST-VQA
    contains  one of the references stands in the answer, word for word, both normalised
    f1        SQuAD's: the F1 of the words, whatever their order, without articles and punctuation
    rouge-l   ROUGE-L: the F1 of the longest sequence of words that both have in this order, others between them or not

Where there are several references, the nearest counts. Two texts without a word are alike to the last two.

Normalising is VQAv2's, written from its definition (https://visualqa.org/evaluation.html): lower case, no full stops
but decimal points, digits for number words, no articles, contractions with their apostrophe, other punctuation as a
space.
Captions of the testbed's scenes have their own measure, in `adafv.worlds.drawn.score`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rapidfuzz.distance import LCSseq, Levenshtein

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
_WORD = re.compile(r"[^\W_]+")
_SQUAD_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
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
    nearest = max(
        Levenshtein.normalized_similarity(said, " ".join(reference.lower().split())) for reference in references
    )
    return nearest if nearest > ANLS_LEAST else 0.0


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if the words of one of the references stand together in the answer."""
    said = f" {normalise(answer)} "
    return float(any(f" {normalise(reference)} " in said for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """SQuAD's F1 of the words, to the nearest reference."""
    return max(_word_f1(_squad_words(answer), _squad_words(reference)) for reference in references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L's F1, to the nearest reference. Words are those of any script; case doesn't count, nothing is stemmed."""
    return max(_lcs_f1(_WORD.findall(answer.lower()), _WORD.findall(each.lower())) for each in references)


METRICS: dict[str, Metric] = {
    "exact": exact, "vqa": vqa, "anls": anls, "contains": contains, "f1": f1, "rouge-l": rouge_l,
}  # fmt: skip


def references_of(value: Any) -> tuple[str, ...]:
    """The right answers that a column's value gives; none where it gives none that can be read."""
    values = value if isinstance(value, list) else [value]
    texts = [each.get("answer") if isinstance(each, dict) else each for each in values]
    if any(isinstance(text, bool) or not isinstance(text, str | int | float) for text in texts):
        return ()
    references = tuple(str(text) for text in texts)
    return references if any(reference.strip() for reference in references) else ()


def normalise(text: str) -> str:
    """`text` as VQAv2 compares it. An answer that is nothing but an article stays: it may be a choice's letter."""
    plain = _SPACED.sub(" ", _DELETED.sub("", text.lower()))
    words = [_NUMBERS.get(word, _CONTRACTIONS.get(word, word)) for word in plain.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _squad_words(text: str) -> list[str]:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return _SQUAD_ARTICLE.sub(" ", plain).split()


def _word_f1(words: Sequence[str], others: Sequence[str]) -> float:
    return _f1((Counter(words) & Counter(others)).total(), words, others)


def _lcs_f1(words: Sequence[str], others: Sequence[str]) -> float:
    return _f1(LCSseq.similarity(words, others), words, others)


def _f1(common: int, words: Sequence[str], others: Sequence[str]) -> float:
    """2 · precision · recall / (precision + recall)."""
    return 2 * common / (len(words) + len(others)) if words or others else 1.0
