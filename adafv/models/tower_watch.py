"""Saliency from a vision tower that nobody has described: from its own attention, found by trying.

transformers looks attention functions up by name, so that every call in the tower can come through ours. One of the
modules that call it decides: the last one behind which each visual token is made of patches of its own. It is found
when the model is loaded: some patches of a module's output are changed, and a token has to change if and only if one of
its patches did. Modules and ways of merging patches are tried until one explains what happened to several random
choices of patches, so that a wrong guess shows. Where none does, saliency is even.

Saliency is what the families' adapters have: the [CLS] row, where one position stands before each crop's patches, else
what a patch receives from all positions of its crop; of several patches that make a token the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adafv.onednn import attention, has_attention
from adafv.pruning import cls_saliency, received_saliency

_NAME = "watched_tower"
_LONG = 256  # positions from which on oneDNN's attention is faster than SDPA on a CPU
_LEAST, _TOLD = 2, 64  # choices of patches that are tried, or as many as say of that many tokens whether they change
_MERGES = ("runs", "blocks")  # how patches are put together: one behind the other, or squares of a crop's rows


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which patches a visual token is made of: of the `module` in the order of calls, with so many `leading` positions
    before each crop's patches, put together as `merge` says. `size`: the patches of each crop, where crops are
    taken to be square.
    """

    module: int
    leading: int
    merge: str
    size: int | None = None

    def patches(self, valid: Sequence[Tensor], count: int, grid: tuple[int, int] | None) -> Tensor | None:
        """`_patches`; None also where nobody knows whether crops are square."""
        if self.merge == "blocks" and grid is None and self.size != len(valid[0]) - self.leading:
            return None
        return _patches(valid, self.leading, self.merge, count, grid)


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module: query, key [B, H, T, E], the factor on scores, and bool [B, T], which positions count."""

    query: Tensor
    key: Tensor
    scaling: float
    valid: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """What is known of a picture that is tried.

    Attributes:
        encode: gives its visual tokens.
        tokens: these, [N, D].
        calls: bool [T] of each row of each call of a module, by the module's number: which positions count.
        grid: rows and columns of the tokens, where they are known.
    """

    encode: Any
    tokens: Tensor
    calls: dict[int, list[Tensor]]
    grid: tuple[int, int] | None


class TowerWatch:
    """The attention of a model's vision tower.

    Args:
        model: the whole model, whose parts outside of `language_model` are watched.

    Attributes:
        mapping: what `find` found; None where saliency is even.
        one_size: whether all pictures are of one size to the tower.
    """

    def __init__(self, model: PreTrainedModel, language_model: nn.Module) -> None:
        self.mapping: Mapping | None = None
        self.one_size = False
        self._modules: list[nn.Module] = []  # in the order of their first calls
        self._calls: dict[int, list[_Call]] = {}
        self._only: int | None = None
        self._change: tuple[int, Tensor, int] | None = None
        within = {id(module) for module in language_model.modules()}
        for module in model.modules():
            holds = any(each is language_model for each in module.modules())
            if isinstance(module, PreTrainedModel) and id(module) not in within and not holds:
                self._take(module)

    def _take(self, tower: PreTrainedModel) -> None:
        """Have a tower's attention come through ours, if it takes functions by name."""
        try:
            tower.set_attn_implementation(_NAME)
        except (ValueError, AttributeError, ImportError):
            return
        for module in tower.modules():
            module.watch = self  # type: ignore[assignment]

    @contextmanager
    def watching(self, all_modules: bool = False) -> Iterator[None]:
        """Note the calls that follow; of all modules, or of the one that decides, if there is one."""
        self._calls, self._modules = {}, []
        self._only = None if all_modules else -1 if self.mapping is None else self.mapping.module
        try:
            yield
        finally:
            self._calls, self._only = {}, None

    def note(self, module: nn.Module, call: _Call) -> int:
        """Note one call; the number of its module."""
        number = next((at for at, each in enumerate(self._modules) if each is module), len(self._modules))
        if number == len(self._modules):
            self._modules.append(module)
        if self._only is None or self._only == number:
            self._calls.setdefault(number, []).append(call)
        return number

    def changed(self, module: nn.Module, call: _Call, output: Tensor) -> Tensor:
        """A module's output [B, T, H, E], with the changes that are tried."""
        number = self.note(module, call)
        if self._change is None or self._change[0] != number:
            return output
        _, chosen, start = self._change
        rows = output.shape[0] * output.shape[1]
        self._change = number, chosen, start + rows
        here = chosen[start : start + rows].view(output.shape[:2])
        return output + 100 * here[:, :, None, None].to(output.device, output.dtype)

    def find(self, encodes: Sequence[Any], grids: Sequence[tuple[int, int] | None]) -> None:
        """Find the `mapping`, which has to explain all pictures, and whether there is `one_size`.

        Args:
            encodes: each gives the visual tokens [N, D] of a picture, whose sizes differ.
            grids: rows and columns of each, where they are known.
        """
        pictures, sizes = [], []
        for encode, grid in zip(encodes, grids, strict=True):
            with self.watching(all_modules=True):
                tokens = encode()
                calls = {number: [row for call in made for row in call.valid] for number, made in self._calls.items()}
                sizes.append({call.query.shape[1:] for made in self._calls.values() for call in made})
            pictures.append(_Picture(encode, tokens, calls, grid))
        self.one_size = all(size == sizes[0] for size in sizes)
        first, *others = pictures
        for number in sorted(first.calls, reverse=True)[:4]:
            guesses = self._explaining(first, _guesses(first, number))
            self.mapping = next((one for one in guesses if all(self._explaining(each, [one]) for each in others)), None)
            if self.mapping is not None:
                return

    def _explaining(self, picture: _Picture, guesses: Sequence[Mapping]) -> list[Mapping]:
        """Those of the guesses about one module that explain which of a picture's tokens change with its patches; or
        that say nothing of the picture.
        """
        number, count = guesses[0].module if guesses else 0, len(picture.tokens)
        valid = picture.calls.get(number, [])
        patches = {one: one.patches(valid, count, picture.grid) for one in guesses}
        silent = [one for one in guesses if patches[one] is None]
        left = [one for one in guesses if patches[one] is not None]
        total = sum(each.numel() for each in valid)
        random = torch.Generator().manual_seed(number)
        told = False
        for _ in range(max(_LEAST, _TOLD // count)):
            if not left:
                return silent
            chosen = torch.rand(total, generator=random) < 0.7 / max(1, total // count)  # about half of the tokens
            found = self._tried(picture.encode, picture.tokens, number, chosen)
            if found is None or not (found.any() or chosen.sum() < 2):
                return []  # nothing comes of the module
            told |= bool(found.any()) and not bool(found.all())
            left = [one for one in left if torch.equal(chosen[patches[one]].any(dim=1), found)]
        return left + silent if told else []

    def _tried(self, encode: Any, tokens: Tensor, number: int, chosen: Tensor) -> Tensor | None:
        """bool [N]: which of the visual tokens [N, D] change where patches do; None where their number does, or the
        model can't compute with them.
        """
        with self.watching(all_modules=True):
            self._change = number, chosen, 0
            try:
                found = encode()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError):
                return None
            finally:
                self._change = None
        return (found != tokens).any(dim=1).cpu() if found.shape == tokens.shape else None

    def cues(self, count: int, grid: tuple[int, int] | None, images: int = 1) -> tuple[Tensor, Tensor] | None:
        """float32 [B, N] and [B, N, E]: saliency and keys of the N = `count` visual tokens of each of B = `images`,
        within `watching`. None where they can't be had.
        """
        mapping = self.mapping
        calls = [] if mapping is None else self._calls.get(mapping.module, [])
        valid = [row for call in calls for row in call.valid]
        if mapping is None or not valid or len(valid) % images:
            return None
        saliency = [row for call in calls for row in _saliency(call, mapping.leading)]
        keys = [row for call in calls for row in call.key.float().mean(dim=1)]
        each, found = len(valid) // images, []
        for crops in (slice(start, start + each) for start in range(0, len(valid), each)):
            patches = mapping.patches(valid[crops], count, grid)
            if patches is None:
                return None
            patches = patches.to(keys[0].device)
            found.append([torch.cat(cue[crops])[patches].mean(dim=1) for cue in (saliency, keys)])
        whole, whole_keys = (torch.stack(cue) for cue in zip(*found, strict=True))
        return whole, whole_keys


def _saliency(call: _Call, leading: int) -> Tensor:
    """float32 [B, T]; of no account at leading positions."""
    if not bool(call.valid.all()):
        parts = []
        for query, key, valid in zip(call.query, call.key, call.valid, strict=True):
            own = _Call(query[None, :, valid], key[None, :, valid], call.scaling, valid[None, valid])
            parts.append(torch.zeros_like(valid, dtype=torch.float32).masked_scatter(valid, _saliency(own, leading)[0]))
        return torch.stack(parts)
    if not leading:
        return received_saliency(call.query, call.key, call.scaling)
    cls = cls_saliency(call.query, call.key, call.scaling)
    return torch.cat([torch.zeros_like(cls[:, :1]), cls], dim=1)


def _guesses(picture: _Picture, number: int) -> list[Mapping]:
    """How a module's patches might be put together, by a picture that they have to make the tokens of."""
    valid, count, grid = picture.calls[number], len(picture.tokens), picture.grid
    square = None if grid is not None and len(valid) == 1 else len(valid[0])
    guesses = [
        Mapping(number, leading, merge, None if square is None else square - leading)
        for leading in (0, 1)
        for merge in _MERGES
    ]
    return [one for one in guesses if one.patches(valid, count, grid) is not None]


def _patches(
    valid: Sequence[Tensor], leading: int, merge: str, count: int, grid: tuple[int, int] | None
) -> Tensor | None:
    """int64 [N, m]: which positions, counted over all calls, each of N = `count` tokens is made of; None where they
    can't be so many.

    Args:
        valid: bool [T] of each row of each call.
        grid: rows and columns of the tokens, if they are known and of one crop.
    """
    crops, start = [], 0
    for each in valid:
        places = torch.arange(start, start + len(each))
        crops.append(places[leading:][each[leading:].cpu()])
        start += len(each)
    total = sum(map(len, crops))
    if not count or not total or total % count:
        return None
    each_has = total // count
    if merge == "runs":
        return torch.cat(crops).view(count, each_has)
    side = round(each_has**0.5)
    if side < 2 or side * side != each_has:
        return None
    out = []
    for crop in crops:
        tokens = len(crop) // each_has
        rows = round(tokens**0.5)
        shape = grid if grid is not None and len(crops) == 1 else (rows, rows)
        if shape[0] * shape[1] * each_has != len(crop):
            return None
        squares = crop.view(shape[0], side, shape[1], side).transpose(1, 2)
        out.append(squares.reshape(-1, each_has))
    return torch.cat(out)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers' SDPA, by oneDNN where that is faster; and noted by the module's `TowerWatch`."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    plain = attention_mask is None and not (kwargs.get("is_causal") or getattr(module, "is_causal", True))
    watch = getattr(module, "watch", None)
    if plain and query.shape[2] >= _LONG and query.shape == key.shape and has_attention(query.device, query.dtype):
        output = attention(query, key, value, scale, one_shape=watch is not None and watch.one_size)
    else:
        kwargs.pop("output_attentions", None)  # SDPA would warn that it can't
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if watch is None or query.shape[2] != key.shape[2] or query.shape[1] != key.shape[1]:
        return output, None
    return watch.changed(module, _Call(query, key, scale, _valid(query, attention_mask)), output), None


def _valid(query: Tensor, mask: Tensor | None) -> Tensor:
    """bool [B, T]: positions that some position attends to, by a mask of any kind."""
    rows, length = query.shape[0], query.shape[2]
    if mask is None or mask.dim() != 4:
        return torch.ones(rows, length, dtype=torch.bool, device=query.device)
    seen = mask if mask.dtype == torch.bool else mask >= 0
    return seen.any(dim=2).any(dim=1).expand(rows, -1)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
