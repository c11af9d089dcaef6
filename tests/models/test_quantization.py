"""Quantised weights: those of the language model alone, near what they were, and the same labels in every batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adafv.engine import Engine, EngineOptions, Preparer
from adafv.models import load_adapter, load_processing, quantization
from adafv.models.quantization import quantize
from tests.models.conftest import picture
from tests.tiny_models import Shape, build

pytest.importorskip("torchao")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), Shape(hidden=64)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_language_models_layers_are_quantised_and_nothing_else(model, dtype):
    processing = load_processing(model)
    plain, small = (load_adapter(model, processing, CPU, dtype, quantized=name) for name in (None, "int8"))
    changed = {name for name, one in small.model.named_parameters() if type(one) is not nn.Parameter}
    assert changed == {
        f"model.language_model.layers.{layer}.{part}_proj.weight"
        for layer in range(2)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    }
    crops = torch.from_numpy(processing.crops(picture((64, 64))))
    assert torch.equal(plain.encode(crops).tokens, small.encode(crops).tokens)
    embeds = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        wanted, got = (one.model.model.language_model(inputs_embeds=embeds)[0].float() for one in (plain, small))
    assert 0.001 < (got - wanted).norm() / wanted.norm() < 0.05


def test_what_is_kept_is_the_same_and_batches_change_nothing(model):
    labels = {}
    for name in (None, "int8"):
        options = EngineOptions(keep=0.2, max_new_tokens=6, quantize=name)
        preparer, engine = Preparer.load(model, options), Engine.load(model, options)
        samples = [preparer.prepare(str(i), picture((64, 64), i), f"w{i} w{2 * i}") for i in range(6)]
        labels[name] = engine.label(samples)
        alone = [label for sample in samples for label in engine.label([sample])]
        assert [one.answer for one in alone] == [one.answer for one in labels[name]]
    kept, small = ([one.kept_indices.tolist() for one in each] for each in labels.values())
    assert kept == small
    first, second = ([one.mean_logprob for one in each] for each in labels.values())
    assert first != second


def test_four_bits_are_for_a_gpu():
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=r"for bfloat16 on a GPU, and this is .* on cpu; give int8"):
            quantize(nn.Sequential(nn.Linear(128, 8)), "int4", CPU, dtype)


def test_what_is_missing_is_known_without_weights(model, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs torchao, which isn't installed: pip install 'adafv\[quantize\]'"):
        Preparer.load(model, EngineOptions(quantize="int8"))
