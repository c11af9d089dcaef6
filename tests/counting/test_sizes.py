"""A model's sizes, from its configuration and back from a run's record."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, LlavaConfig, LlavaNextForConditionalGeneration

from adafv.counting import Sizes
from adafv.embedded import embedded_model
from adafv.models import load_processing, sizes_of

TESTBED = Sizes(
    patches=36, patch_values=192, tower_width=128, tower_mlp=384, tower_layers=3, features=1, width=128, layers=3,
    queries=128, keys=128, mlp=320, vocabulary=73,
)  # fmt: skip


def test_of_the_testbed():
    config = load_processing(str(embedded_model("testbed"))).config
    assert sizes_of(config) == TESTBED
    config.text_config.num_key_value_heads = 2
    config.vision_feature_layer = [-2, -4]
    shared = sizes_of(config)
    assert (shared.keys, shared.features, shared.tower_layers) == (64, 2, 3)


@pytest.mark.parametrize("gated", [False, True])
def test_of_a_dinov2_tower(gated):
    """Its crops may have another size than the pictures that it was trained on, and a gated MLP has three products."""
    vision = Dinov2Config(hidden_size=48, num_attention_heads=2, num_hidden_layers=3, use_swiglu_ffn=gated)
    sizes = sizes_of(LlavaConfig(vision_config=vision, image_seq_length=576))
    with torch.device("meta"):
        mlp = Dinov2Model(vision).encoder.layer[0].mlp
    assert 2 * sizes.tower_width * sizes.tower_mlp == sum(each.numel() for each in mlp.parameters() if each.dim() > 1)
    assert (sizes.patches, sizes.tower_layers) == (576, 2)


def test_the_language_model_has_so_many_weights():
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(load_processing(str(embedded_model("testbed"))).config)
    matrices = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    assert sum(weight.numel() for weight in matrices if weight.dim() > 1) == TESTBED.language_weights


def test_through_a_record():
    assert Sizes.from_json(json.loads(json.dumps(TESTBED.as_json()))) == TESTBED
    with pytest.raises(KeyError):
        Sizes.from_json({"patches": 3})
    with pytest.raises(ValueError, match="many"):
        Sizes.from_json(TESTBED.as_json() | {"mlp": "many"})


def test_counting_needs_nothing():
    code = "import sys, adafv.counting; assert not {'torch', 'numpy', 'transformers', 'ray'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
