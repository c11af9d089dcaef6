"""From a folder or hub id to a `Processing`, an `Adapter` or a `TextTower`.

Weights are read from safetensors only, and a repository's own Python code is never run: a dataset labelling job has no
business executing either a pickle or a stranger's module.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPModel,
    PretrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from adafv.counting import Sizes
from adafv.internals import ignoring_weights
from adafv.models.adapter import Adapter
from adafv.models.general import GeneralAdapter
from adafv.models.general_processing import ABSENT, GeneralProcessing, photo_only
from adafv.models.idefics3 import Idefics3Adapter
from adafv.models.internvl import InternVLAdapter
from adafv.models.llava import LlavaAdapter
from adafv.models.llava_next import LlavaNextAdapter
from adafv.models.llava_onevision import LlavaOnevisionAdapter
from adafv.models.probe import probe
from adafv.models.processing import Processing
from adafv.models.quantization import quantize
from adafv.models.qwen2_5_vl import Qwen25VLAdapter
from adafv.models.qwen3_vl import Qwen3VLAdapter
from adafv.models.text_tower import TextTower

# By the model type that a checkpoint's configuration names.
FAMILIES: dict[str, type[Adapter]] = {
    "llava": LlavaAdapter,
    "llava_next": LlavaNextAdapter,
    "llava_onevision": LlavaOnevisionAdapter,
    "internvl": InternVLAdapter,
    "idefics3": Idefics3Adapter,
    "smolvlm": Idefics3Adapter,
    "qwen2_5_vl": Qwen25VLAdapter,
    "qwen3_vl": Qwen3VLAdapter,
}

# Parts of vision towers behind the features that models take, which checkpoints may lack.
_BEHIND_FEATURES = {"post_layernorm", "pooler", "head"}

_WHOLE = "a whole CLIP model ('clip') is needed, with text model, vision model and both projections"


def load_processing(path: str, image_options: Mapping[str, Any] | None = None) -> Processing:
    """Load what needs no weights: configuration, tokenizer, image processor, chat template.

    The parts are loaded one by one. `AutoProcessor` fails without torchvision for every family that also reads videos,
    and would use it for resizing where it is installed; the PIL processors give every machine the same pixels.

    Args:
        image_options: settings of the image processor in place of the checkpoint's.

    Raises:
        ValueError: the model, or its image processor, is of no supported family; the image processor has no such
            setting; or the chat template fails.
        OSError: there is no such model, or a file of it is missing.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family = _family(config)
    settings, _ = _Settings.get_processor_dict(path)
    if family is GeneralAdapter:
        try:
            processor = _whole_processor(path, config, settings, image_options or {})
            return GeneralProcessing(
                family=family,
                config=config,
                processor=processor,
                chat_template=_chat_template(settings, processor.tokenizer),
            )
        except (OSError, ValueError):
            raise
        except Exception as error:  # the processor is of a type that nobody here has seen
            kind = f"the processor of model type {config.model_type!r} can't be used"
            raise ValueError(f"{kind}: {type(error).__name__}: {error}") from error
    image_processor = _image_processor(path, family, image_options or {})
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    try:
        return Processing(
            family=family,
            config=config,
            image_processor=image_processor,
            tokenizer=tokenizer,
            chat_template=_chat_template(settings, tokenizer),
        )
    except Exception as error:  # the template is a program, run in transformers' sandbox: it may raise anything
        raise ValueError(f"the model's chat template can't be used: {type(error).__name__}: {error}") from error


class _Settings(ProcessorMixin):
    """Reads a processor's settings. Some name another model, for sounds, which transformers would load with them."""

    @classmethod
    def get_possibly_dynamic_module(cls, module_name: str) -> Any:
        raise ValueError(f"the model's processor wants a {module_name}, and only pictures are supported")


def _chat_template(settings: Mapping[str, Any], tokenizer: Any) -> str | None:
    """The processor's own, else the tokenizer's: older checkpoints have theirs there."""
    template = settings.get("chat_template") or tokenizer.chat_template
    return template["default"] if isinstance(template, dict) else template


def sizes_of(config: PretrainedConfig) -> Sizes | None:
    """What decides how much work the model makes; None where nobody has counted it, as of types that have no adapter of
    their own. Raises a ValueError for a model that isn't supported.
    """
    family = _family(config)
    return None if family is GeneralAdapter else family.sizes(config)


def _family(config: PretrainedConfig) -> type[Adapter]:
    family = FAMILIES.get(config.model_type)
    if family is not None and family.takes(config):
        return family
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        if getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"model type {config.model_type!r} is an encoder and a decoder: pictures don't go into a prompt, where "
                "they could be pruned"
            )
        return GeneralAdapter
    raise ValueError(
        f"model type {config.model_type!r} is not supported; supported are {', '.join(FAMILIES)} and others that "
        "transformers has as image-text-to-text models"
    )


def _whole_processor(
    path: str, config: PretrainedConfig, settings: dict[str, Any], image_options: Mapping[str, Any]
) -> Any:
    """The model's own processor, for pictures, with the PIL twin of its image processor where there is one."""
    name = settings.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    named = processor_class(name) if name else None
    if named is None:
        raise ValueError(f"transformers has no processor for model type {config.model_type!r}, which the prompt needs")
    if not issubclass(named, ProcessorMixin):
        raise ValueError(f"the model names {name!r} as its processor, which is none")
    made = photo_only(named)
    parts: list[Any] = []
    for part in named.get_attributes():
        if part == "tokenizer":
            parts.append(AutoTokenizer.from_pretrained(path, trust_remote_code=False))
        elif part == "image_processor":
            try:
                images = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
                _refuse_unknown(type(images), image_options, getattr(named, "images_kwargs", {}))
                parts.append(type(images).from_pretrained(path, **image_options) if image_options else images)
            except ImportError as error:
                raise ValueError(
                    f"the image processor of model type {config.model_type!r} needs a library: {error}"
                ) from error
        else:
            parts.append(ABSENT)
    return made.from_args_and_dict(parts, settings)


def processor_class(name: str) -> Any:
    """transformers' processor class of that name, or None. Raises a ValueError for one that needs a missing library."""
    named: Any = processor_class_from_name(name)
    if not getattr(named, "is_dummy", False):
        return named
    # It may want torchvision for nothing but its image processor, which has a twin without.
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Processor")).lower()
    folder = f"transformers.models.{module}"
    try:
        sys.modules.setdefault(
            f"{folder}.image_processing_{module}", import_module(f"{folder}.image_processing_pil_{module}")
        )
        return getattr(import_module(f"{folder}.processing_{module}"), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} needs a library that isn't installed; most often it is torchvision: pip install torchvision"
        ) from error


def _image_processor(path: str, family: type[Adapter], options: Mapping[str, Any]) -> Any:
    """The PIL twin of the image processor that the model names, with its settings and these."""
    settings, _ = BaseImageProcessor.get_image_processor_dict(path)
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "none"
    known = {processor.__name__.removesuffix("Pil"): processor for processor in family.image_processors}
    plain = named.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if plain not in known:
        raise ValueError(
            f"image processor {named!r} is not supported for this family; supported are {', '.join(known)}"
        )
    _refuse_unknown(known[plain], options, family.image_arguments)
    return known[plain].from_pretrained(path, **options)


def _refuse_unknown(image_processor: Any, options: Mapping[str, Any], always: Mapping[str, Any]) -> None:
    """Raise a ValueError for a setting that the image processor hasn't, or the model's processor `always` makes."""
    named, has = image_processor.__name__.removesuffix("Pil"), image_processor.valid_kwargs.__annotations__
    if unknown := [name for name in options if name not in has]:
        raise ValueError(f"image processor {named!r} has no setting {unknown[0]!r}; it has {', '.join(sorted(has))}")
    if made := [name for name in options if always.get(name, options[name]) != options[name]]:
        raise ValueError(f"the model's processor always sets {made[0]!r} to {always[made[0]]!r}")


def load_adapter(
    path: str,
    processing: Processing,
    device: torch.device,
    dtype: torch.dtype,
    *,
    language_model: bool = True,
    quantized: str | None = None,
) -> Adapter:
    """Load the weights onto `device` in `dtype`; onto a GPU straight from the files where accelerate is installed, else
    by way of the host's memory. Errors as for `load_processing` and `quantize`, and a ValueError where the weights lack
    a part of the model.

    Args:
        language_model: where False, the language model's layers and its head stay away, for a back end that has its
            own. What comes before them is there, the input embeddings too; `forward` and `score` are not to be called.
        quantized: `int8` or `int4`, for the language model's layers.
    """
    config = copy.deepcopy(processing.config)
    # The class that `AutoModelForImageTextToText` would take.
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    if not language_model:
        text = config.get_text_config()
        text.num_hidden_layers = 0
        if getattr(text, "layer_types", None):
            text.layer_types = []
        model_class = ignoring_weights(model_class, [r"(language|text)_model\.(model\.)?layers\."])
    # What is quantised comes by way of the host, layer after layer: on the GPU there may be no room for it as it is.
    straight = device.type == "cuda" and quantized is None and find_spec("accelerate") is not None
    arguments: dict[str, Any] = {
        "config": config,
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "device_map": {"": device} if straight else None,
        "output_loading_info": True,
    }
    try:
        model, report = model_class.from_pretrained(path, attn_implementation="sdpa", **arguments)
    except ValueError:
        if processing.family is not GeneralAdapter:
            raise
        # The model has no other.
        model, report = model_class.from_pretrained(path, attn_implementation="eager", **arguments)
    missing = [name for name in report["missing_keys"] if _BEHIND_FEATURES.isdisjoint(name.split("."))]
    _require_weights(missing, path, "are its files complete, and in transformers' format?")
    if not language_model:
        del model.lm_head
    if quantized is not None:
        quantize(model.get_decoder(), quantized, device, dtype)
    adapter = processing.family(model.to(device).eval(), processing.normalisation())
    if isinstance(adapter, GeneralAdapter) and isinstance(processing, GeneralProcessing):
        probe(adapter, processing)
    return adapter


def _require_weights(missing: Collection[str], owner: str, advice: str) -> None:
    """Raise a ValueError where a checkpoint lacks weights, which transformers has filled with random numbers."""
    if missing:
        first, *others = sorted(missing)
        raise ValueError(f"{owner} lacks {first} and {len(others)} more weights; {advice}")


def check_text_tower(path: str, processing: Processing) -> Any:
    """The tokenizer of the CLIP model whose text tower goes with the vision tower of `processing`. Needs no weights.

    Raises:
        ValueError: it is no CLIP model, or none whose vision tower is as wide as the model's.
        OSError: there is no such model, or a file of it is missing.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if "siglip" in config.model_type:
        raise ValueError(
            f"text tower {path} is a SigLIP model, which isn't supported: SigLIP compares words with all patches "
            "pooled by attention, not with single ones; give a CLIP model"
        )
    if config.model_type != "clip":
        raise ValueError(f"text tower {path} is of model type {config.model_type!r}; {_WHOLE}")
    width, needed = config.vision_config.hidden_size, processing.family.feature_width(processing.config)
    if width != needed:
        raise ValueError(
            f"text tower {path} doesn't fit the model: its vision model has {width} channels, and the features that "
            f"the model projects have {needed}; give the CLIP model that the model's vision tower comes from"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    known = config.text_config.vocab_size
    if len(tokenizer) != known:  # where its files are missing, transformers makes one of only the special tokens
        raise ValueError(
            f"text tower {path} has a tokenizer of {len(tokenizer)} tokens and a text model of {known}; are the "
            "tokenizer's files missing?"
        )
    return tokenizer


def load_text_tower(path: str, processing: Processing, device: torch.device) -> TextTower:
    """Load the text tower onto `device`, in float32. Errors as for `check_text_tower`, and a ValueError where the
    weights lack a part of the model.
    """
    tokenizer = check_text_tower(path, processing)
    loaded: Any = CLIPModel.from_pretrained(
        path,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    model, report = loaded
    _require_weights(report["missing_keys"], f"text tower {path}", _WHOLE)
    return TextTower(model, tokenizer, device)
