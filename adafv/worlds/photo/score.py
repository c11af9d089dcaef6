"""What an answer about a photo scene is worth: 1 if it is right; a caption gets the F1 of the things that it names."""

from __future__ import annotations

import re

from adafv.scoring.metrics import exact, normalise
from adafv.worlds.captions import f1
from adafv.worlds.drawn.score import CAPTION, Truth

_BEGINNING = re.compile(r"^\s*the image shows\b", re.IGNORECASE)
_BETWEEN = re.compile(r",| with ")


def points(label: str, truth: Truth) -> float:
    """From 0 to 1. Articles, case and punctuation don't count."""
    if truth.type == CAPTION:
        return f1(named(label), named(truth.answer))
    return exact(label, [truth.answer])


def named(caption: str) -> list[str]:
    """ "The image shows an otter with a pear, a red sign that says 42." -> otter, pear, red sign that says 42"""
    parts = _BETWEEN.split(_BEGINNING.sub("", caption.strip().removesuffix(".")))
    return [name for part in parts if (name := normalise(part))]
