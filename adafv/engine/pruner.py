"""Visual tokens to kept tokens: the cues that the strategy asks for, for each question, and its choice.

All pictures of a batch at once on an accelerator; one by one on a CPU, so that no matrix product spans two of them and
a picture's cues are the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.engine.look import Look
from adafv.models import Adapter, Encoded, Processing, Reading
from adafv.pruning import Cues, Merged, Selection, Strategy, text_similarity

# Cues that only the text tower can give.
_READ = frozenset({"clip_text", "clip_words"})


class Pruner:
    """Prunes the pictures of a batch, each for its question.

    Args:
        together: whether the pictures of a batch are pruned together.
    """

    def __init__(self, adapter: Adapter, processing: Processing, strategy: Strategy, together: bool) -> None:
        if strategy.needs & _READ and adapter.text_tower is None:
            raise ValueError(f"strategy {strategy.name!r} needs a text tower here, and the adapter has none")
        self._adapter, self._processing, self._strategy = adapter, processing, strategy
        self._together, self._device = together, adapter.model.device

    def __call__(self, looks: Sequence[Look], images: Sequence[Encoded]) -> tuple[Selection, list[Encoded]]:
        """The kept tokens [V, N] of V looks, and the images as the language model is to see them: where the strategy
        merged tokens, a look has an image of its own.

        Args:
            images: of each look, as encoded.
        """
        if not looks:
            nothing = torch.empty(0, 0, dtype=torch.bool, device=self._device)
            return Selection(nothing, nothing, nothing, nothing.long().sum(dim=1)), []
        readings = self._read(looks)
        step = len(looks) if self._together else 1
        parts: list[Selection] = []
        seen: list[Encoded] = []
        for start in range(0, len(looks), step):
            part = slice(start, start + step)
            cues = self._cues(looks[part], images[part], readings[part])
            selection = self._strategy.select(cues, torch.tensor([look.keep for look in looks[part]]))
            parts.append(selection)
            seen += self._merge(looks[part], images[part], selection.merged) if selection.merged else images[part]
        if len(parts) == 1:
            return parts[0], seen
        together = Selection(
            mask=_padded([part.mask[0] for part in parts]),
            by_text=_padded([part.by_text[0] for part in parts]),
            by_saliency=_padded([part.by_saliency[0] for part in parts]),
            flaws=torch.cat([part.flaws for part in parts]),
        )
        return together, seen

    def _read(self, looks: Sequence[Look]) -> list[Reading]:
        """What the text tower makes of each look's text, which is read once where several ask the same; nothing if
        the strategy doesn't need it.
        """
        tower = self._adapter.text_tower
        if tower is None or not self._strategy.needs & _READ:
            return []
        texts = [self._processing.decode(look.text.tolist()) for look in looks]
        distinct = list(dict.fromkeys(texts))
        passes = [distinct] if self._together else [[text] for text in distinct]
        readings = dict(zip(distinct, (reading for group in passes for reading in tower.read(group)), strict=True))
        return [readings[text] for text in texts]

    def _merge(self, looks: Sequence[Look], images: Sequence[Encoded], merged: Merged) -> list[Encoded]:
        """The images with the merged tokens in the place of their targets."""
        tokens = self._adapter.project(merged.hidden)  # [B, C, D]
        out = []
        for image, at, targets, new in zip(images, self._sources(looks), merged.targets, tokens, strict=True):
            # What has no target goes to a row behind the image's, which is cut off.
            place = torch.where(targets < 0, len(image.tokens), at[targets.clamp_min(0)])
            table = torch.cat([image.tokens, new[:1]]).index_copy(0, place, new)[:-1]
            out.append(Encoded(table, image.saliency, deepstack=image.deepstack))
        return out

    def _sources(self, looks: Sequence[Look]) -> list[Tensor]:
        """int64 [N] each: where among the patches of its image each visual token stands."""
        places = [torch.from_numpy(look.geometry.source[look.geometry.is_token]) for look in looks]
        return [place.to(self._device, non_blocking=True) for place in places]

    def _cues(self, looks: Sequence[Look], images: Sequence[Encoded], readings: Sequence[Reading]) -> Cues:
        """The cues that the strategy needs, in the packed order of the N visual tokens."""
        needs = self._strategy.needs
        sources = self._sources(looks)
        cues = {"valid": _padded([torch.ones_like(source, dtype=torch.bool) for source in sources])}
        for name in needs & {"saliency", "keys", "hidden", "clip_visual"}:
            cues[name] = _gathered([getattr(image, name) for image in images], sources)
        if needs & {"visual", "similarity"}:
            cues["visual"] = _gathered([image.tokens for image in images], sources)
        if needs & {"text", "similarity"}:
            ids = [torch.from_numpy(look.text).to(self._device, non_blocking=True) for look in looks]
            cues["text_valid"] = _padded([torch.ones_like(row, dtype=torch.bool) for row in ids])
            cues["text"] = self._adapter.embed(_padded(ids))
        if "similarity" in needs:
            cues["similarity"] = text_similarity(cues["text"], cues["visual"], cues["text_valid"], cues["valid"])
        if "clip_text" in needs:
            cues["clip_text"] = torch.stack([reading.whole for reading in readings])
        if "clip_words" in needs:
            words = [reading.words for reading in readings]
            cues["clip_words"] = _padded(words)
            cues["clip_words_valid"] = _padded([torch.ones_like(row[:, 0], dtype=torch.bool) for row in words])
        for name in needs & {"neighbours", "places"}:
            rows = [torch.from_numpy(getattr(look.geometry, name)) for look in looks]
            cues[name] = _padded(rows, -1).to(self._device, non_blocking=True)
        if "seeds" in needs:
            seeds = torch.tensor([look.seed for look in looks])
            cues["seeds"] = seeds.to(self._device, non_blocking=True)
        return Cues(**cues)


def _gathered(tables: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """[B, longest, ...]: of each table the rows that stand at its places."""
    return _padded([table.index_select(0, at) for table, at in zip(tables, places, strict=True)])


def _padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """[B, longest, ...], rows filled up at the end."""
    if len(rows) == 1:
        return rows[0][None]  # no copy
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
