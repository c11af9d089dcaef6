"""Where a model family's visual tokens, cues and geometry come from: one adapter per family, over transformers.

attention    SDPA that also returns the [CLS] row, registered as one of transformers' attention functions
geometry     where each visual token lies in the packed sequence and on the image
adapter      what the engine asks of every family
llava, llava_next   the families; a new one is a file here and a line in `loading`
processing   image to uint8 crops, prompt to token ids, by the model's own processor; needs no weights
loading      from a folder or hub id to a `Processing` or an `Adapter`
"""

from adafv.models.adapter import Adapter, Encoded
from adafv.models.geometry import Geometry, Panel
from adafv.models.loading import load_adapter, load_processing
from adafv.models.processing import Processing, Prompt

__all__ = ["Adapter", "Encoded", "Geometry", "Panel", "Processing", "Prompt", "load_adapter", "load_processing"]
