"""Where a model family's visual tokens, cues and geometry come from: one adapter per family, over transformers.

attention    SDPA that also returns saliency, registered as one of transformers' attention functions
tower        a vision tower, cut off behind the layer that feeds the projector
geometry     where each visual token lies in the packed sequence and on the image
adapter      what the engine asks of every family
llava, llava_next, llava_onevision, internvl, idefics3, qwen2_5_vl, qwen3_vl
             the families; a new one is a file here and a line in `loading`
qwen         what the last two have in common
packing      weights laid out once for oneDNN, on a CPU
quantization the language model's weights in fewer bits
reading      the attention that it reads prompts with
text_tower   the half of CLIP that reads, for the strategies that want it
processing   image to uint8 crops, prompt to token ids, by the model's own processor; needs no weights
loading      from a folder or hub id to a `Processing`, an `Adapter` or a `TextTower`
"""

from adafv.models.adapter import Adapter, Encoded
from adafv.models.geometry import Geometry, Panel
from adafv.models.loading import check_text_tower, load_adapter, load_processing, load_text_tower, sizes_of
from adafv.models.processing import Processing, Prompt
from adafv.models.quantization import check_quantization
from adafv.models.reading import best_attention
from adafv.models.text_tower import Reading, TextTower

__all__ = [
    "Adapter",
    "Encoded",
    "Geometry",
    "Panel",
    "Processing",
    "Prompt",
    "Reading",
    "TextTower",
    "best_attention",
    "check_quantization",
    "check_text_tower",
    "load_adapter",
    "load_processing",
    "load_text_tower",
    "sizes_of",
]
