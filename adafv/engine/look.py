"""A picture with a question to prune it for: of a sample with several pictures, each is pruned by itself.

So the budget is each picture's own. Pruned together, one large picture would leave nothing of a small one, and a
picture's kept tokens would depend on which others the prompt shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adafv.engine.options import EngineOptions
from adafv.engine.sample import Sample, seed_of
from adafv.models import Geometry, Processing


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One picture of one sample.

    Attributes:
        sample: which sample of the batch it is of.
        geometry: the picture's.
        keep: K.
        text: int32 [T], the tokens that the text cue sees.
        seed: for strategies that draw.
    """

    sample: int
    geometry: Geometry
    keep: int
    text: np.ndarray
    seed: int


def looks_of(samples: Sequence[Sample], processing: Processing, options: EngineOptions) -> list[Look]:
    """Those of a batch: the samples' pictures, one after the other."""
    return [look for number, sample in enumerate(samples) for look in _looks(number, sample, processing, options)]


def _looks(number: int, sample: Sample, processing: Processing, options: EngineOptions) -> Iterator[Look]:
    places, first = processing.image_places(sample.input_ids), 0
    for count, picture in enumerate(sample.pictures):
        geometry = processing.geometry(picture.size, alone=len(sample.pictures) == 1)
        last = first + geometry.runs
        if options.text_scope == "question":
            text = sample.input_ids[sample.question]
        else:
            text = np.delete(sample.input_ids, places)[places[last - 1] + 1 - last :]
        seed = seed_of(sample.id) if count == 0 else seed_of(sample.id, str(count))
        yield Look(number, geometry, options.budget(geometry.visual_tokens), text, seed)
        first = last
