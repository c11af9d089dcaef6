"""Packed layers give what plain ones give, up to rounding, and take their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP

from adafv.models.packing import PackedLinear, PackedQuickGeluMlp, noting_calls, pack
from adafv.onednn import is_packable

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="oneDNN's packed layout is for x86",
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64), (700, 64), (2, 0, 64)])
def test_equals_a_plain_layer(shape, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 33, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)
        turned = torch.randn(64, 7).T  # not contiguous
        torch.testing.assert_close(PackedLinear(linear)(turned), linear(turned), rtol=1e-5, atol=1e-5)


def test_every_linear_layer_is_replaced_and_tied_weights_stay_with_the_embedding():
    model = nn.ModuleDict({"words": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    model["inner"] = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model["head"].weight = model["words"].weight
    hidden = torch.randn(2, 8)
    with torch.inference_mode():
        before = model["head"](hidden), model["inner"](hidden)
        pack(model)
        assert isinstance(model["head"], PackedLinear) and isinstance(model["inner"][0], PackedLinear)
        for got, wanted in zip((model["head"](hidden), model["inner"](hidden)), before, strict=True):
            torch.testing.assert_close(got, wanted)
    assert model["words"].weight.shape == (10, 8)


def test_what_has_no_kernels_stays():
    model = nn.Sequential(nn.Linear(4, 4).double())
    pack(model)
    assert type(model[0]) is nn.Linear


def clip_mlp(activation: str) -> CLIPMLP:
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4, hidden_act=activation)
    return CLIPMLP(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clip_mlp_is_replaced_whole(dtype):
    model, x = nn.ModuleList([clip_mlp("quick_gelu")]).to(dtype), torch.randn(2, 40, 32, dtype=dtype)
    with torch.inference_mode():
        wanted = model[0](x)
        pack(model)
        got = model[0](x)
    assert type(model[0]) is (PackedQuickGeluMlp if is_packable(x) else CLIPMLP)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-3}
    torch.testing.assert_close(got, wanted, **tolerance)


def test_with_another_activation_its_layers_are():
    model, x = nn.ModuleList([clip_mlp("gelu")]), torch.randn(5, 32)
    with torch.inference_mode():
        wanted = model[0](x)
        pack(model)
        torch.testing.assert_close(model[0](x), wanted, rtol=1e-4, atol=1e-6)
    assert type(model[0]) is CLIPMLP and isinstance(model[0].fc1, PackedLinear)


class Reading(nn.Module):
    """Has one layer that it calls, one whose weight it reads as well, and one that it doesn't use."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.unused = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.called(x) + self.read(x.to(self.read.weight.dtype))


def test_of_code_that_nobody_knows_only_layers_that_are_called_are_replaced():
    model, x = Reading(), torch.randn(2, 4)
    with torch.inference_mode():
        with noting_calls(model) as layers:
            wanted = model(x)
        pack(model, layers)
        torch.testing.assert_close(model(x), wanted)
    assert [type(each) for each in (model.called, model.read, model.unused)] == [PackedLinear, nn.Linear, nn.Linear]
