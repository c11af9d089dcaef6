"""A pretended GPU: tensors that hold CPU values and say `cuda:0`.

Code that asks for the device takes its accelerator's path, and gets the CPU's numbers. Tensors of two devices don't
meet. What a GPU would make the host wait for is noted with where it was asked, and so is what it would launch. It knows
nothing of time, memory, streams, or a GPU's rounding.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)

# Operators that give the host a value, or a shape that depends on one.
_ASKING = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2", "unique_dim", "bincount"}
_UNSTEADY = {
    *("cumsum", "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"),
    *(
        "_index_put_impl_",
        "put_",
        "histc",
        "bincount",
        "_embedding_bag",
        "adaptive_avg_pool2d",
        "max_pool3d_with_indices",
    ),
}
_NO_KERNEL = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}

# Of c10's table of what switches devices: the places of CUDA, and of `meta`, where nothing is switched.
_GUARDS, _CUDA_GUARD, _META_GUARD = "_ZN3c104impl26device_guard_impl_registryE", 1, 14


class Pretended(Tensor):
    """A tensor on the pretended device; `inner` is the CPU's that it holds."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, inner: Tensor) -> Pretended:
        out = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            dtype=inner.dtype,
            storage_offset=inner.storage_offset(),
            device=CUDA,
        )
        out.inner = inner
        return out

    @classmethod
    def __torch_dispatch__(cls, *call: Any) -> Any:
        return World.now.__torch_dispatch__(*call)


class World(TorchDispatchMode):
    """What happens while there is a pretended device.

    Attributes:
        waits: for each time that the host would wait for the device, `operator in function`.
        uploads: likewise for copies to the device that the host would have to stay for: not asked for as
            `non_blocking`, or from memory that isn't pinned.
        unsteady: likewise for operators of which CUDA's, by torch's documentation, sum in an order of their own each
            time.
        launches: how many kernels were launched, copies to the device among them.
    """

    now: World

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self.unsteady: list[str] = []
        self.launches = 0
        self._pinned: dict[int, Any] = {}  # kept, so that no other storage gets the address

    def pinned(self, tensor: Tensor) -> Tensor:
        """`tensor`, whose memory counts as pinned from now on."""
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def wait(self, name: str) -> None:
        self.waits.append(f"{name} in {_place()}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = {id(each.inner): each for each in tensors if isinstance(each, Pretended)}
        device = kwargs.get("device")
        there = device.type == "cuda" if device else isinstance(args[0], Pretended) if name == "copy_" else bool(ours)
        if name in ("_to_copy", "copy_"):
            self._note_copy(name, args[name == "copy_"], there, kwargs.get("non_blocking") or args[2:] == (True,))
        elif ours and any(each.dim() and not isinstance(each, Pretended) for each in tensors):
            raise RuntimeError(f"tensors of two devices: {func} in {_place()}")
        by_mask = name.startswith("index") and any(
            leaf.dtype == torch.bool for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor)
        )
        if ours and (name in _ASKING or by_mask):
            self.wait(name)
        if ours and name in _UNSTEADY and tensors[0].is_floating_point():
            self.unsteady.append(f"{name} in {_place()}")
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        self.launches += there and not is_view and name not in _NO_KERNEL

        def wrapped(leaf: Any) -> Any:
            if id(leaf) in ours:
                return ours[id(leaf)]
            return Pretended(leaf) if there and type(leaf) is Tensor else leaf

        return args[0] if name == "copy_" else tree_map(wrapped, out)

    def _note_copy(self, name: str, source: Tensor, there: bool, non_blocking: bool) -> None:
        if there and not isinstance(source, Pretended):
            if not non_blocking or source.untyped_storage().data_ptr() not in self._pinned:
                self.uploads.append(f"{name} in {_place()}")
        elif isinstance(source, Pretended) and not there and not non_blocking:
            self.wait(name)


class _Functions(TorchFunctionMode):
    """What a torch that was built without CUDA doesn't get as far as an operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, here = kwargs or {}, bool(args) and isinstance(args[0], Pretended)
        if func is Tensor.pin_memory:
            return World.now.pinned(args[0].clone())
        if func is Tensor.tolist and here:
            World.now.wait("tolist")
            return args[0].inner.tolist()
        if func is torch.nn.functional.scaled_dot_product_attention and here:
            World.now.launches += 1
            return Pretended(func(*tree_map(_inner, args), **tree_map(_inner, kwargs)))
        if func is torch.bmm and "out_dtype" in kwargs and here:  # which a CPU hasn't
            World.now.launches += 1
            return Pretended(torch.bmm(*(each.inner.to(kwargs["out_dtype"]) for each in args)))
        pin = func is torch.empty and kwargs.pop("pin_memory", False)
        out = func(*map(_numbered, args), **{key: _numbered(value) for key, value in kwargs.items()})
        return World.now.pinned(out) if pin else out


class _Event:
    def __init__(self, **_: Any) -> None: ...

    def record(self) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Any) -> float:
        return 0.0


@contextmanager
def pretended_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[World]:
    """While this lasts there is one, of that compute capability."""
    world = World.now = World()
    guards = (ctypes.c_void_p * 15).in_dll(ctypes.CDLL(f"{torch.__path__[0]}/lib/libc10.so"), _GUARDS)
    cuda = {
        "_lazy_init": lambda: None,
        "Event": _Event,
        "synchronize": lambda *_: world.wait("synchronize"),
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "pretended",
    }
    with ExitStack() as stack:
        stack.callback(guards.__setitem__, _CUDA_GUARD, guards[_CUDA_GUARD])
        guards[_CUDA_GUARD] = guards[_META_GUARD]
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # What happens in other threads isn't seen: transformers would load weights in some.
        stack.enter_context(mock.patch.dict(os.environ, {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        for name in ("__enter__", "__exit__"):  # in inference mode operators made of others would arrive whole
            stack.enter_context(mock.patch.object(torch.inference_mode, name, lambda *_: None))
        for mode in (torch.no_grad(), _Functions(), world):
            stack.enter_context(mode)
        yield world


def _inner(leaf: Any) -> Any:
    if isinstance(leaf, Pretended):
        return leaf.inner
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _numbered(value: Any) -> Any:
    """A device without a number would be asked of CUDA itself."""
    return CUDA if isinstance(value, str | torch.device) and str(value) == "cuda" else value


def _place() -> str:
    """The function of the package that asked."""
    frame: Any = sys._getframe(1)
    while frame and not frame.f_globals.get("__name__", "").startswith("adafv."):
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}" if frame else "elsewhere"
