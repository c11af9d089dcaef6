"""Published checkpoints by name: their configuration, processor files, token ids and chat templates, with few weights.

The files are written after the published ones. Layers are fewer and narrower; what decides where tokens lie is not
scaled down: sides of pictures and patches, feature layers, ids, rope, crops.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from adafv.engine import EngineOptions, PrepareError, Preparer
from adafv.models.loading import processor_class
from adafv.turn import Turn
from tests.models.checkpoint import Checkpoint
from tests.models.conformance.internvl import TEMPLATE as INTERNVL
from tests.models.conformance.llava import CHATML
from tests.models.conformance.stock import Answer, for_pictures, generated
from tests.models.conftest import picture
from tests.random_weights import spread

WORDS = [f"w{i}" for i in range(60)]
FIRST_WORD = 1000  # the id of the first of them; published special tokens have others
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True)
class Published:
    """One checkpoint.

    Attributes:
        config, images, processor: config.json, preprocessor_config.json and processor_config.json.
        tokens: special tokens by their ids.
        named: those that the tokenizer names, by the attribute.
        template: the chat template. It takes a turn's text instead of parts if it `takes_strings`.
        general: whether the general adapter runs it.
    """

    config: dict[str, Any]
    images: dict[str, Any]
    processor: dict[str, Any]
    tokens: dict[str, int]
    named: dict[str, str]
    template: str
    takes_strings: bool = False
    general: bool = False


JOYCAPTION = Published(
    config={
        "architectures": ["LlavaForConditionalGeneration"],
        "image_seq_length": 729,
        "image_token_index": 128077,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 128000,
            "eos_token_id": [128001, 128008, 128009],
            "max_position_embeddings": 131072,
            "model_type": "llama",
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "vocab_size": 128256,
        },
        "vision_config": {"image_size": 384, "model_type": "siglip_vision_model", "patch_size": 14},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full",
    },
    images={
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "size": {"height": 384, "width": 384},
    },
    processor={
        "image_token": "<|reserved_special_token_69|>",
        "num_additional_image_tokens": 0,
        "patch_size": 14,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "full",
    },
    tokens={
        "<|begin_of_text|>": 128000,
        "<|finetune_right_pad_id|>": 128004,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eot_id|>": 128009,
        "<|reserved_special_token_69|>": 128077,
        "<|reserved_special_token_70|>": 128078,
        "<|reserved_special_token_71|>": 128079,
    },
    named={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"},
    template=(
        "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
        "{%- else %}{%- set system = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
        "{{- 'Today Date: 26 July 2024\n\n' + system + '<|eot_id|>' }}"
        "{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{%- if message['role'] == 'user' %}{{- '<|reserved_special_token_70|><|reserved_special_token_69|>"
        "<|reserved_special_token_71|>' }}{%- endif %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
    ),
    takes_strings=True,
)
_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LLAVA_34B = Published(
    config={
        "architectures": ["LlavaNextForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": _GRIDS,
        "image_token_index": 64000,
        "model_type": "llava_next",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "eos_token_id": 7,
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "pad_token_id": 0,
            "rms_norm_eps": 1e-05,
            "rope_theta": 5000000.0,
            "vocab_size": 64064,
        },
        "use_image_newline_parameter": True,
        "vision_config": {
            "image_size": 336,
            "model_type": "clip_vision_model",
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    images={
        "aspect_ratio_setting": "anyres",
        "crop_size": {"height": 336, "width": 336},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": _GRIDS,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "LlavaNextImageProcessor",
        "image_std": CLIP_STD,
        "resample": 3,
        "size": {"shortest_edge": 336},
    },
    processor={
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaNextProcessor",
        "vision_feature_select_strategy": "default",
    },
    tokens={
        "<unk>": 0,
        "<|startoftext|>": 1,
        "<|endoftext|>": 2,
        "<|im_start|>": 6,
        "<|im_end|>": 7,
        "<image>": 64000,
        "<pad>": 64001,
    },
    named={"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"},
    template=CHATML,
)
PIXTRAL = Published(
    config={
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": 1,
        "image_token_index": 10,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {
            "max_position_embeddings": 1024000,
            "head_dim": 128,
            "model_type": "mistral",
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000000.0,
            "sliding_window": None,
            "vocab_size": 131072,
        },
        "vision_config": {
            "head_dim": 64,
            "image_size": 1024,
            "model_type": "pixtral",
            "patch_size": 16,
            "rope_theta": 10000.0,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    images={
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "PixtralImageProcessor",
        "image_std": CLIP_STD,
        "patch_size": {"height": 16, "width": 16},
        "processor_class": "PixtralProcessor",
        "resample": 3,
        "size": {"longest_edge": 1024},
    },
    processor={
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
        "image_token": "[IMG]",
        "patch_size": 16,
        "processor_class": "PixtralProcessor",
    },
    tokens={
        "<unk>": 0,
        "<s>": 1,
        "</s>": 2,
        "[INST]": 3,
        "[/INST]": 4,
        "[IMG]": 10,
        "<pad>": 11,
        "[IMG_BREAK]": 12,
        "[IMG_END]": 13,
    },
    named={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    template=(
        "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}{{- '[INST]' }}"
        "{%- if message['content'] is not string %}{%- for chunk in message['content'] %}"
        "{%- if chunk['type'] == 'text' %}{{- chunk['text'] }}{%- elif chunk['type'] == 'image' %}{{- '[IMG]' }}"
        "{%- endif %}{%- endfor %}{%- else %}{{- message['content'] }}{%- endif %}{{- '[/INST]' }}"
        "{%- else %}{{- message['content'][0]['text'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
    general=True,
)
INTERNVL3_5 = Published(
    config={
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 151671,
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "model_type": "qwen3",
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        "vision_config": {
            "attention_bias": True,
            "image_size": [448, 448],
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "patch_size": [14, 14],
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    },
    images={
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": 12,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "size": {"height": 448, "width": 448},
    },
    processor={"image_seq_length": 256, "processor_class": "InternVLProcessor"},
    tokens={
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<img>": 151669,
        "</img>": 151670,
        "<IMG_CONTEXT>": 151671,
        "<video>": 151678,
    },
    named={
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    template=INTERNVL,
)
ALL = {
    "fancyfeast/llama-joycaption-beta-one-hf-llava": JOYCAPTION,
    "llava-hf/llava-v1.6-34b-hf": LLAVA_34B,
    "mistral-community/pixtral-12b": PIXTRAL,
    "OpenGVLab/InternVL3_5-8B-HF": INTERNVL3_5,
}


def write(one: Published, path: Path) -> None:
    tokenizer = _tokenizer(one)
    tokenizer.save_pretrained(path)
    vision = {"num_attention_heads": SMALL["hidden_size"] // one.config["vision_config"].get("head_dim", 16)}
    heads = {"text_config": HEADS, "vision_config": vision}
    small = {part: one.config[part] | SMALL | values for part, values in heads.items()}
    for name, values in (("config", one.config | small), ("preprocessor_config", one.images)):
        (path / f"{name}.json").write_text(json.dumps(values))
    (path / "processor_config.json").write_text(json.dumps(one.processor))
    config = AutoConfig.from_pretrained(path)
    torch.manual_seed(0)
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    spread(model)
    unknown = torch.ones(len(model.lm_head.weight), dtype=torch.bool)
    unknown[FIRST_WORD : FIRST_WORD + len(WORDS)] = False
    with torch.no_grad():
        model.lm_head.weight[unknown] = 0  # so that answers are words
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    written = (path / "config.json").read_text()
    model.save_pretrained(path)
    (path / "config.json").write_text(written)


def _tokenizer(one: Published) -> PreTrainedTokenizerFast:
    pieces = [piece for piece in re.findall(r"\n+| +|[A-Za-z0-9]+|.", one.template) if piece not in WORDS]
    pieces += [" ", "\n", "\n\n", "user", "assistant", "system"]
    vocabulary = {word: FIRST_WORD + place for place, word in enumerate(dict.fromkeys([*WORDS, *pieces]))}
    core = Tokenizer(models.WordLevel(one.tokens | vocabulary, unk_token=next(iter(one.tokens))))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+| +|[A-Za-z0-9]+|."), "isolated")
    usual = {name: token for name, token in one.named.items() if name in ("bos_token", "eos_token", "pad_token")}
    others = {name: token for name, token in one.named.items() if name not in usual}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        padding_side="left",
        chat_template=one.template,
        extra_special_tokens=others,
        **usual,
    )
    tokenizer.add_tokens([*one.tokens], special_tokens=True)
    assert all(tokenizer.convert_tokens_to_ids(token) == number for token, number in one.tokens.items())
    return tokenizer


class Subject(Checkpoint):
    """A published checkpoint in a folder, ours and stock's."""

    def __init__(self, one: Published, path: Path) -> None:
        super().__init__(path)
        self.one = one

    def stock(self, sizes: list[tuple[int, int]], question: str, length: int) -> Answer:
        tokenizer = AutoTokenizer.from_pretrained(self.path)
        images = AutoImageProcessor.from_pretrained(self.path, backend="pil")
        settings = {name: value for name, value in self.one.processor.items() if name != "processor_class"}
        made = processor_class(self.one.processor["processor_class"])
        processor = for_pictures(made, image_processor=images, tokenizer=tokenizer, **settings)
        parts = [*({"type": "image"} for _ in sizes), {"type": "text", "text": question}]
        turn = {"role": "user", "content": question if self.one.takes_strings else parts}
        text = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        bos = tokenizer.bos_token
        added = bos is None or not text.startswith(bos)
        inputs = processor(text=[text], images=[[*map(picture, sizes)]], return_tensors="pt", add_special_tokens=added)
        return generated(AutoModelForImageTextToText.from_pretrained(self.path).eval(), inputs, length)


@pytest.fixture(scope="module", params=ALL)
def subject(request, tmp_path_factory) -> Subject:
    path = tmp_path_factory.mktemp("published")
    write(ALL[request.param], path)
    return Subject(ALL[request.param], path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(150, 230), (420, 160)])
def test_unpruned_answers_are_stock_transformers(subject, size):
    (label,) = subject.converse([([size], "w1 w2 w3")], strategy="none")
    stock = subject.stock([size], "w1 w2 w3", label.output_tokens)
    assert label.answer == subject.processing.decode(stock.ids) and label.answer
    assert label.prompt_tokens == stock.prompt_tokens and abs(label.mean_logprob - stock.mean_logprob) < 1e-3


@pytest.mark.slow
def test_pruned_answers(subject):
    assert (type(subject.adapter).__name__ == "GeneralAdapter") == subject.one.general
    asked = [([(150, 230)], "w4 w5"), ([(420, 160)], "w6 w7 w8")]
    for each, label in zip(asked, subject.converse(asked, keep=0.1), strict=True):
        assert label.kept_tokens == EngineOptions(keep=0.1).kept_of(label.visual_tokens) < label.visual_tokens
        (alone,) = subject.converse([each], keep=0.1)
        assert alone.answer == label.answer and alone.kept_indices.tolist() == label.kept_indices.tolist()


@pytest.mark.slow
def test_a_template_that_takes_text_shows_one_image_before_it(tmp_path):
    """As JoyCaption's. Prompts with more or fewer are refused, also a system turn has its place."""
    write(JOYCAPTION, tmp_path)
    preparer = Preparer(Subject(JOYCAPTION, tmp_path).processing, EngineOptions())
    turns = [Turn("system", ("w8",)), Turn.asking("w1 w2")]
    sample = preparer.converse("1", [picture((64, 64))], turns)
    assert len(sample.question_places) == 3 and FIRST_WORD + 8 in sample.input_ids
    for count in (0, 2):
        with pytest.raises(PrepareError, match=rf"doesn't write {count} image\(s\) for the prompt"):
            preparer.converse("1", [picture((64, 64))] * count, [Turn.asking("w1", count)])
