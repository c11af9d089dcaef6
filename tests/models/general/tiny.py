"""A tiny checkpoint of any image-text-to-text type of transformers: from its configuration's own defaults, made small.

Sizes are shrunk by their names, which most configurations share. What a type needs beyond that stands in `kinds`.
Weights are those of `tests.random_weights`. The tokenizer is made on the spot, of words and the special tokens that
transformers' processors ask for.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from adafv.models import loading
from tests.models.general.kinds import KINDS, TOKENS, Kind
from tests.random_weights import spread

WORDS = [f"w{i}" for i in range(60)]
_OTHERS = ["user", "assistant", "User", "Assistant", " ", "\n", "\n\n", ":", "what"]
_BASICS = ["<pad>", "<s>", "</s>", "<unk>"]
_EVERYWHERE: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "max_position_embeddings": 2048,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "qk_head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "first_k_dense_replace": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "num_dense_layers": 1,
    "tie_word_embeddings": False,
}
_TOWER: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "num_hidden_layers": 3,
    "image_size": 32,
    "patch_size": 8,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "mlp_dim": 64,
    "hidden_dim": 32,
    "num_key_value_heads": 4,
}
_UNUSED = 5  # rows of the embeddings behind the tokenizer's last token, as published models have


def build(model_type: str, path: Path, seed: int = 0) -> Path:
    """Save a model of a type, with the files that published models have, under `path`."""
    kind = KINDS.get(model_type, Kind())
    TOKENIZER_MAPPING_NAMES[model_type] = "TokenizersBackend"  # the type's own class would make the tokenizer anew
    tokenizer = _tokenizer(model_type, kind)
    config = _config(model_type, kind, tokenizer)
    torch.manual_seed(seed)
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    spread(model)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    images_of(model_type).save_pretrained(path)
    named = kind.processor_class or PROCESSOR_MAPPING_NAMES[model_type]
    settings = {"processor_class": named, **kind.processor}
    (path / "processor_config.json").write_text(json.dumps(settings))
    return path


def processor_class(model_type: str) -> Any:
    kind = KINDS.get(model_type, Kind())
    return loading.processor_class(kind.processor_class or PROCESSOR_MAPPING_NAMES[model_type])


def images_of(model_type: str) -> Any:
    """The image processor, with pictures as small as the tower's."""
    kind = KINDS.get(model_type, Kind())
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind.images_of or model_type) or {}
    made = get_image_processor_class_from_name(names.get("pil") or names["torchvision"])
    default = made()
    given: dict[str, Any] = {}
    for name in ("size", "crop_size"):
        size = getattr(default, name, None)
        if size is not None and not isinstance(size, int):
            given[name] = _small(size if isinstance(size, dict) else vars(size))
    if isinstance(getattr(default, "patch_size", None), int):
        given["patch_size"] = 8
    if getattr(default, "image_grid_pinpoints", None):
        given["image_grid_pinpoints"] = [[32, 64], [64, 32], [64, 64]]
    return made(**given | kind.images)


def _small(size: dict[str, Any]) -> dict[str, int]:
    present = {name: value for name, value in size.items() if value}
    if {"shortest_edge", "longest_edge"} <= present.keys():
        pixels = present["longest_edge"] > 10000
        return (
            {"shortest_edge": 32 * 32, "longest_edge": 96 * 96} if pixels else {"shortest_edge": 32, "longest_edge": 64}
        )
    return dict.fromkeys(present, 32)


def _tokenizer(model_type: str, kind: Kind) -> PreTrainedTokenizerFast:
    attributes = {name: token for name, token in (TOKENS | kind.tokens).items() if token is not None}
    special = list(dict.fromkeys([*_BASICS, *attributes.values(), *kind.more_tokens]))
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *WORDS, *_OTHERS]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+| +|[A-Za-z0-9]+|."), "isolated")
    before, behind = kind.around
    placeholder = before + str(kind.placeholder or attributes["image_token"]) + behind
    template = (
        "{% for message in messages %}{{ message['role'] + ': ' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '" + placeholder + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        chat_template=template,
        extra_special_tokens=attributes,
    )
    tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


def _config(model_type: str, kind: Kind, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    made = CONFIG_MAPPING[model_type]
    given = copy.deepcopy(dict(kind.config))  # transformers writes into it
    default = made()
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in [(f"{attribute}_id", token) for attribute, token in (TOKENS | kind.tokens).items() if token]
        if hasattr(default, name) and name not in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    for name in ("image_token_index", "image_token_id", "image_patch_id"):
        if hasattr(default, name):
            ids[name] = tokenizer.convert_tokens_to_ids(kind.visual or (TOKENS | kind.tokens)["image_token"])
    return shrink(made, len(tokenizer) + _UNUSED, {**ids, **given})


def shrink(made: Any, vocabulary: int, given: dict[str, Any], tower: bool | None = None) -> PretrainedConfig:
    """A configuration of a class, small.

    Args:
        given: values beside those; of a part in a mapping of its own.
        tower: whether it is a vision tower's; None for a whole model's.
    """
    default, parts, values = made(), getattr(made, "sub_configs", None) or {}, {}
    for name in parts:
        part = getattr(default, name, None)
        if part is not None or name in given:
            is_tower = tower if tower is not None else any(word in name for word in ("vis", "image", "vq"))
            own = given.get(name, {})
            if not isinstance(own, dict):
                values[name] = own
                continue
            values[name] = shrink(own.get("made") or type(part), vocabulary, own, is_tower)
    own = {name: value for name, value in given.items() if name not in parts and name != "made"}
    for name, value in (_EVERYWHERE | (_TOWER if tower else {"num_hidden_layers": 4})).items():
        if _value(default, name) is not None:
            like = _value(default, name)
            values[name] = (
                [value, value] if isinstance(like, (list, tuple)) and name in ("image_size", "patch_size") else value
            )
    if not tower and _value(default, "vocab_size") is not None:
        values["vocab_size"] = vocabulary
    for name, value in (("bos_token_id", 1), ("eos_token_id", 2), ("pad_token_id", 0)):
        if hasattr(default, name):
            values[name] = value
    values |= own
    return made(**{name: value for name, value in values.items() if value != "default"})


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # some refuse to name what differs from layer to layer
        return 1
