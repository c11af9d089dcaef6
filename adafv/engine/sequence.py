"""What the language model reads: each prompt with its kept visual tokens where the placeholder stood.

Which tokens are kept is known on the device only, and the host must not ask. So the host lays out every sample's whole
unpruned sequence as slots, each pointing at an embedding and at the flag that says whether it stays; the device sorts
the slots by flag, stably, which moves what is dropped to the right and leaves the rest in order; and the host cuts the
right off at a length that it knows from the budgets alone.

Sequences are read in groups of like length, so that next to nothing is padding. Padding stands on the right: there no
token can see it, since each sees only those before it, and reading needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adafv.engine.sample import Sample
from adafv.models import Geometry

# Flags behind a row's N own: always there, never there, then one for each newline.
_ALWAYS, _NEVER, _FIRST_NEWLINE = 0, 1, 2

# At most this share of what a group reads may be padding.
_PADDING = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Sequences that are read together.

    Attributes:
        rows: which samples of the batch they are.
        embeds: [G, L, D], padded with zeros on the right.
        lengths: int64 [G], on the device: how long each is. At least one is of length L, or the host couldn't tell.
    """

    rows: list[int]
    embeds: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The unpruned sequences of a batch of B samples, S slots each.

    Attributes:
        source: int64 [B, S], the embedding that a slot holds: r for that of patch r of the sample's image, -1 - r for
            row r of the texts'.
        flag: int64 [B, S], which column of the extended mask says whether it stays.
        newline_of: int64 [B, N], the newline flag that a visual token keeps alive, counted from 0.
        newlines: the largest number of newlines of a sample.
        lengths: of each sample: its sequence can't be longer after pruning.
    """

    source: Tensor
    flag: Tensor
    newline_of: Tensor
    newlines: int
    lengths: tuple[int, ...]

    def assemble(self, mask: Tensor, images: Sequence[Tensor], text: Tensor, rows: list[int]) -> Prompts:
        """The pruned sequences of some samples.

        Args:
            mask: bool [B, N], the kept visual tokens.
            images: [C · P, D] each, the visual tokens of each of the B samples' images.
            text: [R, D], the embeddings of all prompts, and the newline's behind them.
            rows: which samples.
        """
        at = torch.tensor(rows).to(mask.device, non_blocking=True)
        kept = mask[at]
        alive = torch.zeros(len(rows), self.newlines + 1, dtype=torch.int64, device=mask.device)
        alive.scatter_add_(1, self.newline_of[at], kept.long())
        constant = torch.tensor([True, False], device=mask.device).expand(len(rows), 2)
        stays = torch.cat([kept, constant, alive > 0], dim=1).gather(1, self.flag[at])  # [G, S]
        length = max(self.lengths[row] for row in rows)
        slots = stays.byte().argsort(dim=1, descending=True, stable=True)[:, :length]  # [G, L]
        present = stays.gather(1, slots)
        source = self.source[at].gather(1, slots)
        # Each from its own image: a table of all would be a copy of every token that was encoded.
        patches = zip(rows, source.clamp_min(0), strict=True)
        visual = torch.stack([images[row].index_select(0, places) for row, places in patches])
        embeds = torch.where(source[:, :, None] < 0, text[(-1 - source).clamp_min(0)], visual)
        return Prompts(rows, embeds * present[:, :, None], present.sum(dim=1))


def grouped(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Sort sequences by length into groups that are read together.

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
    samples: Sequence[Sample],
    geometries: Sequence[Geometry],
    budgets: Sequence[int],
    image_places: Sequence[int],
    text_rows: Sequence[int],
    newline_row: int,
    newlines: str,
    device: torch.device,
) -> Layout:
    """Lay out a batch on the host.

    Args:
        budgets: K of each sample.
        image_places: where in each prompt the placeholder stands, whose place the image takes.
        text_rows: where among the texts' embeddings each sample's prompt begins.
        newline_row: where the newline's stands among them.
        newlines: `drop` or `rows`, see `EngineOptions`. A sample that is not pruned keeps all of them.
    """
    width = max(geometry.visual_tokens for geometry in geometries)
    most_newlines = max(geometry.newlines for geometry in geometries)
    sources, flags, owners, lengths = [], [], [], []
    for sample, geometry, keep, at, text_row in zip(samples, geometries, budgets, image_places, text_rows, strict=True):
        text = -1 - (text_row + np.arange(len(sample.input_ids)))
        image = np.where(geometry.is_token, geometry.source, -1 - newline_row)
        sources.append(np.concatenate([text[:at], image, text[at + 1 :]]))
        whole = keep == geometry.visual_tokens
        policy = "all" if whole else newlines
        always = np.full(len(text), width + _ALWAYS)
        flags.append(np.concatenate([always[:at], _image_flags(geometry, width, policy), always[at + 1 :]]))
        owners.append(_newline_owners(geometry, most_newlines))
        kept_newlines = {"all": geometry.newlines, "rows": min(geometry.newlines, keep), "drop": 0}[policy]
        lengths.append(len(text) - 1 + keep + kept_newlines)
    return Layout(
        source=_padded(sources, 0).to(device),
        flag=_padded(flags, width + _NEVER).to(device),
        newline_of=_padded(owners, most_newlines).to(device),
        newlines=most_newlines,
        lengths=tuple(lengths),
    )


def _image_flags(geometry: Geometry, width: int, policy: str) -> np.ndarray:
    """int64 [L]: the flag of each place of the packed image: its token's own, or its newline's by the policy."""
    flags = np.cumsum(geometry.is_token) - 1
    ends = ~geometry.is_token
    flags[ends] = {
        "all": width + _ALWAYS,
        "drop": width + _NEVER,
        "rows": width + _FIRST_NEWLINE + np.arange(ends.sum()),
    }[policy]
    return flags


def _newline_owners(geometry: Geometry, nobody: int) -> np.ndarray:
    """int64 [N]: which newline ends each visual token's row, or `nobody` for the base crop, whose rows have none."""
    before = np.cumsum(~geometry.is_token)[geometry.is_token]
    last = geometry.panels[-1]
    in_last_panel = np.arange(len(before)) >= len(before) - last.rows * last.columns
    ended = in_last_panel & (before < geometry.newlines)
    return np.where(ended, before, nobody)


def _padded(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """int64 [B, longest], rows filled up on the right."""
    out = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)
