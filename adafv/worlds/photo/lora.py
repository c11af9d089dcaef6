"""Low-rank additions to the frozen language model: what is trained of it, kept apart until a checkpoint is built."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

RANK = 16
SCALE = 2.0  # of the product of the two factors
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(nn.Module):
    """Two factors for each product of each layer: `layers.0.self_attn.q_proj` -> down [rank, in], up [out, rank].

    `up` begins as zeros, so that training begins at the published model.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, (width_out, width_in) in shapes.items():
            start = torch.randn(RANK, width_in, generator=generator) / math.sqrt(width_in)
            self.down[_key(name)] = nn.Parameter(start)
            self.up[_key(name)] = nn.Parameter(torch.zeros(width_out, RANK))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        return self.down[_key(name)], self.up[_key(name)]

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Add the products to the weights of `model`, whose modules have the names of `shapes`."""
        for name, module in projections(model).items():
            down, up = self.factors(name)
            module.weight += SCALE * (up @ down).to(module.weight.dtype)


def _key(name: str) -> str:
    """Parameters' names mustn't hold dots."""
    return name.replace(".", "/")


def projections(model: nn.Module) -> dict[str, nn.Linear]:
    """The products that get an addition, by name, of a Llama without its head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS
    }


def lora_for(model: PreTrainedModel, seed: int = 0) -> Lora:
    return Lora({name: tuple(module.weight.shape) for name, module in projections(model).items()}, seed)  # type: ignore[misc]
