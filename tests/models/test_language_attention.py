"""The language model's attention, in prefill and decoding. There is no GPU: SDPA takes FlashAttention's place."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from adafv.engine import Engine, EngineOptions, Preparer
from adafv.models import language_attention
from adafv.models.language_attention import best_attention, use_attention
from adafv.onednn import has_kernels
from tests.models.conftest import picture
from tests.tiny_models import Shape, build

MODULE = sys.modules["adafv.onednn.attention"]  # the package has a function of this name


@pytest.mark.parametrize(
    ("device", "dtype", "generation", "installed", "wanted"),
    [
        ("cpu", torch.bfloat16, 9, {2, 3}, "sdpa"),
        ("cuda", torch.float32, 9, {2, 3}, "sdpa"),
        ("cuda", torch.bfloat16, 9, {2, 3}, "flash_attention_3"),
        ("cuda", torch.float16, 9, {2}, "flash_attention_2"),
        ("cuda", torch.bfloat16, 8, {2, 3}, "flash_attention_2"),
        ("cuda", torch.bfloat16, 10, {2, 3}, "flash_attention_2"),
        ("cuda", torch.float16, 7, {2, 3}, "sdpa"),
        ("cuda", torch.bfloat16, 9, set(), "sdpa"),
    ],
)
def test_the_best_that_is_installed_and_can_run(monkeypatch, device, dtype, generation, installed, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    monkeypatch.setattr(language_attention, "is_flash_attn_2_available", lambda: 2 in installed)
    monkeypatch.setattr(language_attention, "is_flash_attn_3_available", lambda: 3 in installed)
    assert best_attention(torch.device(device), dtype) == wanted


@pytest.mark.parametrize(
    ("kernels", "intel", "mkl", "wanted"),
    [
        (True, False, True, "onednn"),
        (True, True, False, "onednn"),
        (True, True, True, "sdpa"),  # whose products are then the fastest
        (False, False, True, "sdpa"),
    ],
)
def test_on_a_cpu_it_is_that_for_which_there_are_fast_kernels(monkeypatch, kernels, intel, mkl, wanted):
    monkeypatch.setattr(MODULE, "has_kernels", lambda device, dtype: kernels)
    monkeypatch.setattr(MODULE, "is_intel", lambda: intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert best_attention(torch.device("cpu"), torch.float32) == wanted
    assert best_attention(torch.device("cpu"), torch.bfloat16) == "sdpa"


@pytest.mark.skipif(not has_kernels(torch.device("cpu"), torch.float32), reason="oneDNN's kernels are for x86")
def test_onednn_answers_as_sdpa_does(tmp_path, monkeypatch):
    """Prompts of several lengths, some too short for it; two heads share keys."""
    monkeypatch.setattr(MODULE, "is_intel", lambda: False)
    lengths, causal = [], language_attention.causal_attention
    monkeypatch.setattr(
        language_attention, "causal_attention", lambda *inputs: lengths.append(inputs[0].shape) or causal(*inputs)
    )
    path, options = str(build(tmp_path / "model", Shape(hidden=256))), EngineOptions(keep=0.2, max_new_tokens=6)
    preparer, engine = Preparer.load(path, options), Engine.load(path, options)
    words = (1, 2, 150, 151, 200)
    samples = [preparer.prepare(str(i), picture((64, 64), i), "w1 w7 " * count) for i, count in enumerate(words)]
    labels = engine.label(samples)
    assert engine.attention_name == "onednn"
    read = {length for _, _, length, _ in lengths}
    assert read == {label.padded_tokens for label in labels if label.padded_tokens >= 128} and len(read) > 1
    use_attention(engine._adapter.model.model.language_model, "sdpa")
    for got, label in zip(engine.label(samples), labels, strict=True):
        assert got.answer == label.answer and got.mean_logprob == pytest.approx(label.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "shared"), [(3, 3), (6, 2), (4, 1)])
@pytest.mark.parametrize("layout", ["a part of a cache", "whole", "laid out by positions"])
def test_a_step_is_sdpa_s(layout, heads, shared, masked):
    torch.manual_seed(0)
    query = torch.randn(5, heads, 1, 16)
    room = torch.randn(2, 5, shared, 40, 16)
    room[:, :, :, 30:] = torch.nan  # nobody has written there yet
    key, value = room[:, :, :, :30]
    if layout == "whole":
        key, value = key.contiguous(), value.contiguous()
    elif layout == "laid out by positions":
        key, value = (each.transpose(1, 2).contiguous().transpose(1, 2) for each in (key, value))
    seen = torch.rand(5, 1, 1, 30) < 0.7 if masked else None
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(language_attention._step(query, key, value, seen, 0.3), wanted.transpose(1, 2))


def test_prompts_are_read_by_it_and_answers_by_sdpa(tmp_path, monkeypatch):
    calls = []

    def flash(query, key, value, mask, query_length, is_causal, softmax_scale, attn_implementation):
        """As FlashAttention: [B, L, H, D], fewer heads of keys than of queries, no mask."""
        calls.append((query_length, attn_implementation))
        assert mask is None and is_causal
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    monkeypatch.setattr("transformers.modeling_flash_attention_utils._flash_attention_forward", flash)
    path, options = str(build(tmp_path / "model", Shape(hidden=64))), EngineOptions(keep=0.2, max_new_tokens=6)
    preparer, engine = Preparer.load(path, options), Engine.load(path, options)
    samples = [preparer.prepare(str(i), picture((64, 64), i), "w1 " * (1 + 9 * i)) for i in range(4)]
    wanted = engine.label(samples)
    assert not calls
    use_attention(engine._adapter.model.model.language_model, "flash_attention_3")
    for got, label in zip(engine.label(samples), wanted, strict=True):
        assert got.answer == label.answer and got.mean_logprob == pytest.approx(label.mean_logprob, abs=1e-4)
    lengths = {label.padded_tokens for label in wanted}
    assert {length for length, _ in calls} == lengths and {name for _, name in calls} == {"flash_attention_3"}
    assert len(calls) == 2 * len(lengths), "each layer, each group of prompts, and no step"
