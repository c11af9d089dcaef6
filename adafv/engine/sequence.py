"""The language model's input: each prompt with its kept visual tokens where the placeholders stood.

A prompt is text, and runs of visual tokens where its placeholders stand. Most families have a run for each image,
newline embeddings included; some have text within an image, and so several runs (`Geometry.runs`).

Which tokens are kept is known on the device only, and the host must not ask. So the host lays out every sample's whole
unpruned sequence as slots, each pointing at an embedding and at the flag that says whether it stays; the device sorts
the slots by flag, stably, which moves what is dropped to the right and leaves the rest in order; and the host cuts the
right off at a length that it knows from the budgets alone.

Prefill takes sequences in groups of like length, so that next to nothing is padding. Padding stands on the right: there
no token can see it, since each sees only those before it, and prefill needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adafv.engine.padding import padded
from adafv.engine.prompt_image import PromptImage
from adafv.models import Geometry
from adafv.uploading import uploaded

# The batch's flags: always there, never there, then N for each image, its visual tokens', then one for each newline.
_ALWAYS, _NEVER, _FIRST_TOKEN = 0, 1, 2

# At most this share of a group's positions may be padding.
_PADDING = 0.05


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompts:
    """Sequences that go through prefill together.

    Attributes:
        rows: which samples of the batch they are.
        embeds: [G, L, D], padded with zeros on the right.
        lengths: int64 [G], on the device: how long each is. At least one is of length L, or the host couldn't tell.
        positions: int64 [G, L], or [3, G, L] in M-RoPE's three dimensions, where they aren't 0, 1, 2, ...; and
            `following`, int64 [G], that of the first token of the answer.
        deepstack: [S, G, L, D], what is added after each of the language model's first S layers, if anything is.
        blocks: int64 [G, L], positions with the same number see each other in both directions; -1 for those that don't.
            None where all is causal.
    """

    rows: list[int]
    embeds: Tensor
    lengths: Tensor
    positions: Tensor | None = None
    following: Tensor | None = None
    deepstack: Tensor | None = None
    blocks: Tensor | None = None

    def unpadded(self) -> Prompts:
        """The same without padding, of one sequence (G = 1). Waits for the device."""
        length = int(self.lengths)
        return replace(
            self,
            embeds=self.embeds[:, :length],
            positions=None if self.positions is None else self.positions[..., :length],
            deepstack=None if self.deepstack is None else self.deepstack[:, :, :length],
            blocks=None if self.blocks is None else self.blocks[:, :length],
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Layout:
    """The unpruned sequences of a batch of B samples, S slots each. They show V images.

    Attributes:
        source: int64 [B, S], the embedding that a slot holds: r for row r of the sample's visual tokens as encoded, its
            images' one after the other, -1 - r for row r of the texts'.
        flag: int64 [B, S], which of the batch's flags says whether it stays.
        newline_of: int64 [V, N], the newline that a visual token keeps alive, counted over the batch, or `newlines`.
        newlines: how many newlines the batch has.
        lengths: of each sample: its sequence can't be longer after pruning.
        positions: int64 [A, B, S], each slot's in one dimension or in M-RoPE's three, which it keeps whatever is pruned
            before it, and `following`, int64 [B], the one after a sequence; None where positions count what is left.
        anew: bool [B], the samples whose positions do count what is left, where others' don't.
        blocks: int64 [B, S], see `Prompts`.
    """

    source: Tensor
    flag: Tensor
    newline_of: Tensor
    newlines: int
    lengths: tuple[int, ...]
    positions: Tensor | None
    following: Tensor | None
    anew: Tensor | None = None
    blocks: Tensor | None = None

    def stays(self, mask: Tensor) -> Tensor:
        """bool [B, S]: which slots stay, by the kept visual tokens, bool [V, N]."""
        alive = torch.zeros(self.newlines + 1, dtype=torch.int64, device=mask.device)
        alive.scatter_add_(0, self.newline_of.flatten(), mask.flatten().long())
        constant = torch.arange(2, device=mask.device) == _ALWAYS
        return torch.cat([constant, mask.flatten(), alive > 0])[self.flag]

    def assemble(
        self,
        stays: Tensor,
        *,
        visual: Sequence[Tensor],
        text: Tensor,
        rows: list[int],
        deepstack: Sequence[Tensor] = (),
    ) -> Prompts:
        """The pruned sequences of some samples.

        Args:
            stays: bool [B, S].
            visual: [R, D] each, the visual tokens of each of the B samples; no row where it has no image.
            text: [R, D], the embeddings of all prompts, and the newline's after them.
            rows: which samples.
            deepstack: [R, S, D] each, what goes with the visual tokens of each of the B samples, if anything does.
        """
        at = uploaded(torch.tensor(rows), stays.device)
        length = max(self.lengths[row] for row in rows)
        slots = stays[at].byte().argsort(dim=1, descending=True, stable=True)[:, :length]  # [G, L]
        present = stays[at].gather(1, slots)
        source = self.source[at].gather(1, slots)
        # Each from its own images: a table of all would be a copy of every token that was encoded.
        patches = [*zip(rows, source.clamp_min(0), strict=True)]
        tokens = torch.stack([_table(visual[row], text).index_select(0, places) for row, places in patches])
        embeds = torch.where(source[:, :, None] < 0, text[(-1 - source).clamp_min(0)], tokens)
        added = [deepstack[row].index_select(0, places) for row, places in patches] if deepstack else []
        shown, lengths = (present & (source >= 0))[:, :, None], present.sum(dim=1)
        positions, following = self._positions(at, slots, lengths)
        return Prompts(
            rows=rows,
            embeds=embeds * present[:, :, None],
            lengths=lengths,
            positions=positions,
            following=following,
            deepstack=torch.stack(added).movedim(2, 0) * shown if added else None,
            blocks=None if self.blocks is None else self.blocks[at].gather(1, slots).where(present, -1),
        )

    def _positions(self, at: Tensor, slots: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """`positions` and `following` of the `Prompts` of samples `at` [G], of whose slots some [G, L] are taken."""
        if self.positions is None or self.following is None:
            return None, None
        positions, following = _at(self.positions[:, at], slots), self.following[at]
        if self.anew is not None:
            anew, counted = self.anew[at], torch.arange(slots.shape[1], device=slots.device)
            positions = torch.where(anew[:, None], counted, positions)
            following = torch.where(anew, lengths, following)
        return positions, following


def _at(positions: Tensor, slots: Tensor) -> Tensor:
    """int64 [G, L], or [A, G, L] of several dimensions: the `positions` [A, G, S] of the slots [G, L]."""
    found = positions.gather(2, slots.expand(len(positions), -1, -1))
    return found[0] if len(found) == 1 else found


def _table(visual: Tensor, text: Tensor) -> Tensor:
    """`visual`, or `text` where that has no row: slots of text are looked up as well, and thrown away."""
    return visual if len(visual) else text


def grouped(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Sort sequences by length into groups that go through prefill together.

    Args:
        lengths: of each sequence.
        most: positions that a group may have, padding included; a longer sequence is a group by itself.

    Returns:
        Which sequences each group has, shorter ones first.
    """
    groups: list[list[int]] = []
    total = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        positions = (len(groups[-1]) + 1) * lengths[row] if groups else 0
        if groups and positions <= most and total + lengths[row] >= (1 - _PADDING) * positions:
            groups[-1].append(row)
            total += lengths[row]
        else:
            groups.append([row])
            total = lengths[row]
    return groups


def lay_out(
    *,
    lengths: Sequence[int],
    places: Sequence[np.ndarray],
    images: Sequence[PromptImage],
    table_lengths: Sequence[int],
    newlines: str,
    kept: Sequence[bool],
    device: torch.device,
    placed: Sequence[tuple[np.ndarray, int]] | None = None,
    bidirectional: str = "",
) -> Layout:
    """Lay out a batch on the host.

    Args:
        lengths: of each of the B prompts, placeholders not expanded. Their embeddings stand one after the other, and
            after them the newline's.
        places: where in each its placeholders stand, whose places its images' runs take in turn.
        images: the samples' images, one after the other.
        table_lengths: how many rows each image has as encoded.
        newlines: `drop` or `rows`, see `EngineOptions`. An image that is not pruned keeps all of them.
        kept: of each prompt, whether what is left of it keeps its positions; of families whose positions are plain.
        placed: of each prompt its positions, int64 [A, S], and the one after, where the model's own code tells them.
        bidirectional: see `Adapter`.
    """
    width = max((image.geometry.visual_tokens for image in images), default=0)
    count = sum(image.geometry.newlines for image in images)
    runs: list[list[np.ndarray]] = [[] for _ in lengths]
    tables, longest = [0] * len(lengths), [length - len(at) for length, at in zip(lengths, places, strict=True)]
    owners, newline = [], 0
    for number, (image, rows) in enumerate(zip(images, table_lengths, strict=True)):
        geometry, row = image.geometry, image.sample
        policy = "all" if image.keep == geometry.visual_tokens else newlines
        first = _FIRST_TOKEN + number * width, _FIRST_TOKEN + len(images) * width + newline
        source = np.where(geometry.is_token, geometry.source + tables[row], -1 - sum(lengths))
        begun = np.isin(np.arange(len(source)), geometry.cuts)
        block = len(lengths) + sum(map(len, runs)) + np.cumsum(begun)  # no other run of the batch has the number
        slots = np.stack([source, _flags(geometry, *first, policy), block])  # [3, L]
        runs[row] += np.split(slots, geometry.cuts, axis=1)
        owners.append(_newline_owners(geometry, newline, count))
        tables[row] += rows
        newline += geometry.newlines
        longest[row] += image.keep
        longest[row] += {"all": geometry.newlines, "rows": min(geometry.newlines, image.keep), "drop": 0}[policy]
    texts = np.stack([-1 - np.arange(sum(lengths)), np.full(sum(lengths), _ALWAYS), np.full(sum(lengths), -1)])
    prompts = np.split(texts, np.cumsum(lengths)[:-1], axis=1)
    whole = [_spliced(*each) for each in zip(prompts, places, runs, strict=True)]
    plain = placed is None and all(image.geometry.positions is None for image in images)
    given = _stacked_positions([row for row, _ in placed], [at for _, at in placed], device) if placed else None
    keeps = _plain_positions([each.shape[1] for each in whole], device) if plain and any(kept) else None
    own, following = given or keeps or _positions(lengths, places, images, device)
    blocks = [np.zeros_like(block) if bidirectional == "prompt" else block for _, _, block in whole]
    return Layout(
        source=uploaded(_stacked([source for source, _, _ in whole], 0), device),
        flag=uploaded(_stacked([flag for _, flag, _ in whole], _NEVER), device),
        newline_of=uploaded(_stacked(owners, count), device),
        newlines=count,
        lengths=tuple(longest),
        positions=own,
        following=following,
        anew=None if not plain or all(kept) else ~uploaded(torch.tensor(kept), device),
        blocks=uploaded(_stacked(blocks, -1), device) if bidirectional else None,
    )


def _plain_positions(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """`positions` and `following` of a `Layout` whose sequences have so many slots: their places, unpruned."""
    places = torch.arange(max(lengths), device=device).expand(1, len(lengths), -1)
    return places, uploaded(torch.tensor(lengths), device)


def _positions(
    lengths: Sequence[int], places: Sequence[np.ndarray], images: Sequence[PromptImage], device: torch.device
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """`positions` and `following` of a `Layout`. An image says where its own places lie, and what follows comes after
    its extent. Arguments as for `lay_out`; an image is one run.
    """
    if all(image.geometry.positions is None for image in images):
        return None, None
    by_sample: list[list[Geometry]] = [[] for _ in lengths]
    for image in images:
        by_sample[image.sample].append(image.geometry)
    rows, following = [], []
    for length, at, geometries in zip(lengths, places, by_sample, strict=True):
        row, start = [], 0
        for words, geometry in zip(np.diff([-1, *at, length]) - 1, [*geometries, None], strict=True):
            row.append(np.broadcast_to(np.arange(start, start + words), (3, words)))
            start += int(words)
            if geometry is not None and geometry.positions is not None:
                row.append(start + geometry.positions)
                start += geometry.extent
        rows.append(np.concatenate(row, axis=1))
        following.append(start)
    return _stacked_positions(rows, following, device)


def _stacked_positions(
    rows: Sequence[np.ndarray], following: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """`positions` and `following` of a `Layout`, of the rows' own [A, S]."""
    positions = torch.stack([_stacked([row[axis] for row in rows], 0) for axis in range(len(rows[0]))])
    return uploaded(positions, device), uploaded(torch.tensor(following), device)


def _spliced(text: np.ndarray, places: np.ndarray, runs: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [3, S]: the slots of `text` [3, T] with those of a run in each of the `places`."""
    before, *pieces = np.split(text, places, axis=1)
    after = (part for run, piece in zip(runs, pieces, strict=True) for part in (run, piece[:, 1:]))
    return np.concatenate([before, *after], axis=1)


def _flags(geometry: Geometry, token: int, newline: int, policy: str) -> np.ndarray:
    """int64 [L]: the flag of each place of the packed image: its token's own, or its newline's by the policy.

    Args:
        token, newline: the flags of the image's first visual token and of its first newline.
    """
    flags = token + np.cumsum(geometry.is_token) - 1
    ends = ~geometry.is_token
    flags[ends] = {"all": _ALWAYS, "drop": _NEVER, "rows": newline + np.arange(ends.sum())}[policy]
    return flags


def _newline_owners(geometry: Geometry, first: int, no_newline: int) -> np.ndarray:
    """int64 [N]: which newline ends each visual token's row, the image's being counted from `first` on; `no_newline`
    for the base crop, whose rows have none."""
    before = np.cumsum(~geometry.is_token)[geometry.is_token]
    if not geometry.newlines:
        return np.full(len(before), no_newline)
    last = geometry.panels[-1]
    in_last_panel = np.arange(len(before)) >= len(before) - last.rows * last.columns
    ended = in_last_panel & (before < geometry.newlines)
    return np.where(ended, first + before, no_newline)


def _stacked(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """int64 [B, longest], rows filled up on the right."""
    return padded([torch.from_numpy(row) for row in rows], value) if rows else torch.empty(0, 0, dtype=torch.int64)
