"""An image of a prompt, with what it is pruned by: each image of a sample is pruned by itself.

So each image has a token budget of its own. Pruned together, one large image would leave nothing of a small one, and an
image's kept tokens would depend on which others the prompt shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adafv.engine.options import EngineOptions
from adafv.engine.sample import Sample, seed_of
from adafv.models import Geometry, Processing


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PromptImage:
    """One image of one sample.

    Attributes:
        sample: the index of its sample in the batch.
        geometry: where its visual tokens lie.
        keep: K.
        text: int32 [T], the tokens that the text cue sees.
        seed: for strategies that draw random numbers.
    """

    sample: int
    geometry: Geometry
    keep: int
    text: np.ndarray
    seed: int


def prompt_images(samples: Sequence[Sample], processing: Processing, options: EngineOptions) -> list[PromptImage]:
    """The images of a batch, sample after sample."""
    return [image for number, sample in enumerate(samples) for image in _of_sample(number, sample, processing, options)]


def _of_sample(number: int, sample: Sample, processing: Processing, options: EngineOptions) -> Iterator[PromptImage]:
    places, first = processing.image_places(sample.input_ids), 0
    for count, image in enumerate(sample.images):
        geometry = processing.geometry_of(image.crops, image.size, single=len(sample.images) == 1)
        last = first + geometry.runs
        if options.text_scope == "question":
            text = sample.input_ids[sample.question_places]
        else:
            text = np.delete(sample.input_ids, places)[places[last - 1] + 1 - last :]
        if not len(text):  # where no template writes something behind an image that comes last
            text = sample.input_ids[sample.question_places]
        yield PromptImage(
            sample=number,
            geometry=geometry,
            keep=options.kept_of(geometry.visual_tokens),
            text=text,
            seed=seed_of(sample.id) if count == 0 else seed_of(sample.id, str(count)),
        )
        first = last
