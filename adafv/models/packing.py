"""Layers with weights that are laid out once for oneDNN, to take the place of a model's own on a CPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from adafv.internals import onednn_linear
from adafv.onednn import is_packable, lay_out, product


class PackedLinear(nn.Module):
    """A linear layer for inference. Its weight is no parameter: it can't be read, moved or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._product = product(linear.weight.detach(), _bias(linear))

    def forward(self, x: Tensor) -> Tensor:
        """[..., out_features] of [..., in_features]."""
        return self._product(x)


class PackedQuickGeluMlp(nn.Module):
    """second(h · sigmoid(1.702 h)) of h = first(x), as CLIP has it: with weights that are so much larger, and so much
    smaller behind it, it is silu.
    """

    _SCALE = 1.702

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        bias = _bias(first)
        self._first, self._bias = (
            lay_out(first.weight.detach() * self._SCALE),
            None if bias is None else bias * self._SCALE,
        )
        self._second = product(second.weight.detach() / self._SCALE, _bias(second))

    def forward(self, x: Tensor) -> Tensor:
        return self._second(onednn_linear(x, self._first, self._bias, "swish"))


def pack(model: nn.Module, only: Collection[nn.Module] | None = None) -> None:
    """Replace the linear layers of `model`, where it is on an x86 CPU in a dtype that oneDNN has kernels for; those of
    CLIP's MLPs together. Where `only` is given, none but these.
    """
    for name, child in [*model.named_children()]:
        packed = _packed(child, only)
        if packed is None:
            pack(child, only)
        else:
            setattr(model, name, packed)


@contextmanager
def noting_calls(model: nn.Module) -> Iterator[set[nn.Module]]:
    """A set of the layers of `model` that may be packed: those that are called meanwhile, and whose weights no code but
    their own reads.
    """
    layers = [module for module in model.modules() if _is_packable(module)]
    called: set[nn.Module] = set()
    read: set[nn.Module] = set()
    running: list[nn.Module] = []

    class Noted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            called.add(self)
            running.append(self)
            output = super().forward(input)
            running.pop()
            return output

        def __getattribute__(self, name: str) -> Any:
            if name in ("weight", "bias") and self not in running:
                read.add(self)
            return super().__getattribute__(name)

    for layer in layers:
        layer.__class__ = Noted
    try:
        yield called
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
        called -= read


def _packed(module: nn.Module, only: Collection[nn.Module] | None) -> nn.Module | None:
    """What takes the place of `module`, if anything does."""

    def may(each: nn.Module) -> TypeGuard[nn.Linear]:
        return _is_packable(each) and (only is None or each in only)

    if may(module):
        return PackedLinear(module)
    parts: dict[str, Any] = dict(module.named_children())
    is_mlp = parts.keys() == {"activation_fn", "fc1", "fc2"} and may(parts["fc1"]) and may(parts["fc2"])
    if is_mlp and isinstance(parts["activation_fn"], QuickGELUActivation):
        return PackedQuickGeluMlp(parts["fc1"], parts["fc2"])
    return None


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter:  # the latter where it is quantised
        return False
    return is_packable(module.weight)


def _bias(linear: nn.Linear) -> Tensor | None:
    return None if linear.bias is None else linear.bias.detach()
