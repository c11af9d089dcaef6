"""On a pretended GPU: how a model is loaded onto it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from adafv.engine import Engine, EngineOptions, load_model
from adafv.models import loading
from tests.pretended_cuda.device import CUDA, pretended_cuda


@pytest.fixture
def cudnn() -> Iterator[None]:
    """cuDNN's attention as torch starts with it."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_bfloat16_where_the_gpu_has_it(capability, dtype, tiny_model):
    with pretended_cuda(capability):
        assert Engine.load(str(tiny_model), EngineOptions(device="cuda")).dtype_name == dtype
        given = EngineOptions(device="cuda", dtype="float32")
        assert Engine.load(str(tiny_model), given).dtype_name == "float32"


def test_attention_is_not_cudnns(tiny_model, cudnn):
    Engine.load(str(tiny_model), EngineOptions(device="cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled(), "a CPU's process is left as it is"
    with pretended_cuda():
        Engine.load(str(tiny_model), EngineOptions(device="cuda"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("installed", [True, False])
def test_weights_go_straight_to_the_gpu_where_accelerate_is(installed, tiny_model, monkeypatch):
    pytest.importorskip("accelerate")
    if not installed:
        monkeypatch.setattr(loading, "find_spec", lambda name: None)
    found, move = [], PreTrainedModel.to
    monkeypatch.setattr(
        PreTrainedModel,
        "to",
        lambda model, *to: (found.append({each.device for each in model.parameters()}), move(model, *to))[1],
    )
    wanted = load_model(str(tiny_model), EngineOptions(device="cpu", dtype="float32"))[0].model
    with pretended_cuda():
        model = load_model(str(tiny_model), EngineOptions(device="cuda", dtype="float32"))[0].model
        assert found[-1] == ({CUDA} if installed else {torch.device("cpu")}), "before it is moved as a whole"
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        assert {each.device for each in tensors.values()} == {CUDA} and not model.training
        for name, expected in wanted.named_parameters():
            assert torch.equal(tensors[name].cpu(), expected)
