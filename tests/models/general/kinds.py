"""What each model type needs to be built small, beside what `tiny` does for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import Gemma4VisionConfig

# What tokenizers of published models call their special tokens; transformers' processors ask for some of them.
TOKENS: dict[str, str | None] = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<audio>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
    "image_start_token": "<img>",
    "image_end_token": "</img>",
    "video_start_token": "<vid>",
    "video_end_token": "</vid>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
    "image_boundary_token": "<fake_token_around_image>",
    "image_wrapper_token": "<image_wrapper>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}


@dataclass(frozen=True)
class Kind:
    """One type.

    Attributes:
        config: values of its configuration, of parts in mappings of their own.
        images: of its image processor.
        processor: of its processor.
        tokens: special tokens by the attribute that names them, beside or in the place of `TOKENS`.
        more_tokens: further special tokens.
        placeholder: what the chat template writes for an image; the image token if None.
        around: what it writes before and behind it.
        visual: the token that stands for each visual token; the image token if None.
        flat: whether its processor takes images that are in no list of their prompt.
        without: what transformers' own processor can't do, by the name of a column.
        processor_class, images_of: the processor's class and the type whose image processor it has, if transformers
            doesn't say so.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str | None] = field(default_factory=dict)
    more_tokens: tuple[str, ...] = ()
    placeholder: str | None = None
    around: tuple[str, str] = ("", "")
    visual: str | None = None
    processor_class: str | None = None
    images_of: str | None = None
    flat: bool = False
    without: tuple[str, ...] = ()


_THREE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_QWEN: dict[str, str | None] = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_GEMMA: dict[str, str | None] = {"image_token": "<image_soft_token>"}
_MULTIMODAL = {"text_config": {"rope_parameters": _THREE}}

_AROUND = ("<|vision_start|>", "<|vision_end|>")
_LLAVA = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
_PIXTRAL = Kind(
    tokens={"image_token": "[IMG]"},
    more_tokens=("[IMG_BREAK]", "[IMG_END]"),
    processor={"patch_size": 8, "spatial_merge_size": 2},
)

KINDS: dict[str, Kind] = {
    "aria": Kind(
        config={"projector_patch_to_query_dict": {49: 4}, "vision_config": {"image_size": 980, "patch_size": 140}},
        processor={"size_conversion": {490: 4, 980: 4}},
    ),
    "aya_vision": Kind(
        config={"vision_config": {"image_size": 32}, "downsample_factor": 2},
        images={"size": {"height": 32, "width": 32}, "max_patches": 4},
        processor={"patch_size": 8, "img_size": 32, "downsample_factor": 2},
        more_tokens=(
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_PATCH|>",
            "TILE_GLOBAL",
            *(f"TILE_{i}" for i in range(1, 7)),
        ),
        visual="<|IMG_PATCH|>",
    ),
    "cohere_compass": Kind(
        tokens={"image_token": "<|IMAGE_PAD|>", "video_token": "<|VIDEO_PAD|>"},
        more_tokens=("<|VISION_START|>", "<|VISION_END|>"),
        around=("<|VISION_START|>", "<|VISION_END|>"),
        config={
            "text_config": {
                "rope_parameters": {"full_attention": _THREE, "sliding_attention": _THREE},
                "sliding_window": 16,
            }
        },
    ),
    "cosmos3_edge": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL),
    "deepseek_vl": Kind(
        config={"vision_config": {"image_size": 32}},
        images={"size": {"height": 32, "width": 32}},
        processor={"num_image_tokens": 16},
    ),
    "deepseek_vl_hybrid": Kind(
        config={"vision_config": {"image_size": 32}, "high_res_vision_config": {"image_size": 64}},
        images={"size": {"height": 32, "width": 32}, "high_res_size": {"height": 64, "width": 64}},
        processor={"num_image_tokens": 16},
    ),
    "dots3_note": Kind(
        tokens={"image_token": "<|imgpad|>"},
        around=("<img>", "</img>"),
        config={"text_config": {"num_key_value_heads": 4}},
    ),
    "ernie4_5_vl_moe": Kind(
        tokens={"image_token": "<|IMAGE_PLACEHOLDER|>"},
        around=("<img>", "</img>"),
        config={
            "text_config": {"moe_intermediate_size": [32, 32], "rope_parameters": _THREE | {"mrope_section": [1, 1, 2]}}
        },
    ),
    "exaone4_5": Kind(tokens=_QWEN, around=_AROUND),
    "fuyu": Kind(
        tokens={"image_token": "|SPEAKER|"},
        more_tokens=("|NEWLINE|", "<0x04>"),
        images={"patch_size": {"height": 30, "width": 30}},
    ),
    "gemma3": Kind(
        tokens=_GEMMA,
        placeholder="<boi>",
        config={"mm_tokens_per_image": 4, "text_config": {"sliding_window": 16}},
        processor={"image_seq_length": 4},
    ),
    "gemma4": Kind(
        config={
            "text_config": {
                "hidden_size_per_layer_input": 0,
                "use_bidirectional_attention": "vision",
                "sliding_window": 16,
            },
            "vision_config": {"made": Gemma4VisionConfig, "position_embedding_size": 256},
        },
        images={"max_soft_tokens": 70},
    ),
    "glm46v": Kind(config=_MULTIMODAL, around=_AROUND),
    "glm4v": Kind(config=_MULTIMODAL, around=_AROUND),
    "glm4v_moe": Kind(
        config={"text_config": {"rope_parameters": _THREE | {"partial_rotary_factor": 1.0}}},
        around=_AROUND,
        images_of="glm4v",
    ),
    "glm_ocr": Kind(config=_MULTIMODAL, around=_AROUND, images_of="glm46v", processor_class="Glm46VProcessor"),
    "glmga": Kind(config=_MULTIMODAL, around=_AROUND, images_of="glm46v", processor_class="Glm46VProcessor"),
    "got_ocr2": Kind(
        tokens={"image_token": "<imgpad>"},
        more_tokens=("<|im_start|>", "<|im_end|>"),
        config={"vision_config": {"image_size": 256, "patch_size": 4}},  # of which its processor's 256 tokens come
        images={"size": {"height": 256, "width": 256}},
        flat=True,
        without=("several images", "no image"),
    ),
    "granite_docling": Kind(processor={"image_seq_len": 1}),
    "hunyuan_vl": Kind(
        around=("<img>", "</img>"), config={"text_config": {"rope_parameters": _THREE | {"alpha": 1.0}}}
    ),
    "hyperclovax_vision_v2": Kind(tokens=_QWEN, around=_AROUND),
    "janus": Kind(config={"vision_config": {"image_size": 32}}, processor={"num_image_tokens": 16}),
    "lfm3_vl": Kind(tokens=_QWEN, around=_AROUND),
    "lighton_ocr": Kind(tokens={"image_break_token": "[IMG_BREAK]"}, processor={"patch_size": 8}),
    "llava": Kind(  # [CLS] is a visual token, which the family's adapter doesn't take
        processor=_LLAVA | {"vision_feature_select_strategy": "full"},
        config={"vision_feature_select_strategy": "full", "image_seq_length": 17},
        images_of="clip",
    ),
    "llava_next_video": Kind(
        processor=_LLAVA, config={"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]], "image_seq_length": 16}
    ),
    "mistral3": _PIXTRAL,
    "mistral_large4": replace(_PIXTRAL, config={"text_config": {"num_key_value_heads": 4}}),
    "ovis2": Kind(
        more_tokens=("<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        visual="<IMG_ATOM>",
        processor={"image_seq_length": 16},
    ),
    "paddleocr_vl": Kind(config=_MULTIMODAL, around=_AROUND),
    "paligemma": Kind(images={"image_seq_length": 16}),
    "pp_chart2table": Kind(without=("no image",)),
    "qianfan_ocr": Kind(
        placeholder="<image>",
        visual="<IMG_CONTEXT>",
        processor={"image_seq_length": 4},
    ),
    "qwen2_vl": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL),
    "qwen2_5_vl": Kind(
        tokens=_QWEN,
        around=_AROUND,
        config=_MULTIMODAL | {"vision_config": {"fullatt_block_indexes": [2], "window_size": 32}},
    ),
    "qwen3_5": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL),
    "qwen3_5_moe": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL),
    "qwen3_vl": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL),
    "qwen3_vl_moe": Kind(tokens=_QWEN, around=_AROUND, config=_MULTIMODAL, images_of="qwen3_vl"),
    "shieldgemma2": Kind(
        tokens=_GEMMA, placeholder="<boi>", config={"mm_tokens_per_image": 4}, processor={"image_seq_length": 4}
    ),
    "t5gemma2": Kind(tokens=_GEMMA, placeholder="<boi>", processor={"image_seq_length": 4}),
    "video_llama_3": Kind(tokens=_QWEN, around=_AROUND),
    "video_llava": Kind(processor=_LLAVA),
    "vipllava": Kind(
        config={"vision_feature_layers": [-1, -2], "image_seq_length": 16},
        processor={"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"},
    ),
}
