"""The language model's weights in fewer bits, by torchao.

Only its layers' linear weights, which are most of a model. The head stays as it is, since near-ties of tokens are
decided there; and so does all that comes before, the vision tower, the projector and the embeddings: what is kept of an
image is the same with and without.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

GROUP = 128  # weights of a row that share a scale, at 4 bits


def check_quantization(name: str) -> None:
    """Raise a ValueError if what quantises isn't installed."""
    if find_spec("torchao") is None:
        raise ValueError(f"quantize {name!r} needs torchao, which isn't installed: pip install 'adafv[quantize]'")


def quantize(language_model: nn.Module, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Quantise the linear layers, one after the other on `device`, where they stay: so that a model needs to fit there
    only as it is afterwards.

    Args:
        name: `int8`, with a scale for each output channel; or `int4`, with one for each group of `GROUP` inputs, on a
            GPU and in bfloat16: layers whose inputs are no multiple of that stay as they are.

    Raises:
        ValueError: torchao isn't installed, or the device or dtype has no kernels for `name`.
    """
    check_quantization(name)
    if name == "int4" and (device.type != "cuda" or dtype != torch.bfloat16):
        found = f"{str(dtype).removeprefix('torch.')} on {device.type}"
        raise ValueError(f"quantize 'int4' has kernels for bfloat16 on a GPU, and this is {found}; give int8")
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config: Any = (
        Int8WeightOnlyConfig(set_inductor_config=False)
        if name == "int8"
        else Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False)
    )
    step = GROUP if name == "int4" else 1

    def fits(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and module.in_features % step == 0

    quantize_(language_model, config, filter_fn=fits, device=device)
