"""Where a model family's visual tokens, cues and geometry come from: one adapter per family, over transformers.

vision_attention    SDPA that also returns saliency, registered as one of transformers' attention functions
tower        a vision tower, cut off behind the layer that feeds the projector
geometry     where each visual token lies in the packed sequence and on the image
adapter      what the engine asks of every family
llava, llava_next, llava_onevision, internvl, idefics3, qwen2_5_vl, qwen3_vl
             the families; a new one is a file here and a line in `loading`
qwen         what the last two have in common
packing      weights laid out once for oneDNN, on a CPU
quantization the language model's weights in fewer bits
language_attention  the language model's attention, in prefill and in decoding steps
text_tower   CLIP's text tower, for the strategies that need it
general      any other model that transformers has, by its own code; general_processing, its processor's part;
             tower_watch, its saliency; probe, what is tried when it is loaded
processing   image to uint8 crops, prompt to token ids, by the model's own processor; needs no weights
loading      from a folder or hub id to a `Processing`, an `Adapter` or a `TextTower`
"""

from adafv.models.adapter import Adapter, Encoded
from adafv.models.general import GeneralAdapter
from adafv.models.geometry import Geometry, Panel
from adafv.models.language_attention import best_attention
from adafv.models.loading import check_text_tower, load_adapter, load_processing, load_text_tower, sizes_of
from adafv.models.processing import Processing, Prompt, View
from adafv.models.quantization import check_quantization
from adafv.models.text_tower import TextFeatures, TextTower

__all__ = [
    "Adapter",
    "Encoded",
    "GeneralAdapter",
    "Geometry",
    "Panel",
    "Processing",
    "Prompt",
    "TextFeatures",
    "TextTower",
    "View",
    "best_attention",
    "check_quantization",
    "check_text_tower",
    "load_adapter",
    "load_processing",
    "load_text_tower",
    "sizes_of",
]
