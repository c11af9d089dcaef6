"""Visual tokens to kept tokens: the cues that the strategy asks for, for each question, and its choice.

All images of a batch at once on an accelerator; one by one on a CPU, so that no matrix product spans two of them and
an image's cues are the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from adafv.engine.padding import padded
from adafv.engine.prompt_image import PromptImage
from adafv.models import Adapter, Encoded, Geometry, Processing, TextFeatures
from adafv.pruning import Cues, Merged, Selection, Strategy, text_similarity
from adafv.uploading import uploaded

# Sizes of images whose tables stay on the device: up to 0.3 MB each at 2,880 tokens.
_GEOMETRIES = 64

_FROM_TEXT_TOWER = frozenset({"clip_text", "clip_words"})


class Pruner:
    """Prunes the images of a batch, each for its question.

    Args:
        together: whether the images of a batch are pruned together.
    """

    def __init__(self, adapter: Adapter, processing: Processing, strategy: Strategy, together: bool) -> None:
        if strategy.needs & _FROM_TEXT_TOWER and adapter.text_tower is None:
            raise ValueError(f"strategy {strategy.name!r} needs a text tower here, and the adapter has none")
        self._adapter, self._processing, self._strategy = adapter, processing, strategy
        self._together, self._device = together, adapter.model.device
        self._table = lru_cache(_GEOMETRIES)(partial(_table, self._device))

    def __call__(self, images: Sequence[PromptImage], encoded: Sequence[Encoded]) -> tuple[Selection, list[Encoded]]:
        """The kept tokens [V, N] of V images, and the images' tables as the language model is to see them: where the
        strategy merged tokens, an image has a table of its own.

        Args:
            encoded: the table of each image.
        """
        if not images:
            nothing = torch.empty(0, 0, dtype=torch.bool, device=self._device)
            errors = nothing.long().sum(dim=1)
            return Selection(mask=nothing, by_text=nothing, by_saliency=nothing, errors=errors), []
        features = self._text_features(images)
        step = len(images) if self._together else 1
        parts: list[Selection] = []
        shown: list[Encoded] = []
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            cues = self._cues(images[part], encoded[part], features[part])
            selection = self._strategy.select(cues, torch.tensor([image.keep for image in images[part]]))
            parts.append(selection)
            shown += self._merge(images[part], encoded[part], selection.merged) if selection.merged else encoded[part]
        if len(parts) == 1:
            return parts[0], shown
        together = Selection(
            mask=padded([part.mask[0] for part in parts]),
            by_text=padded([part.by_text[0] for part in parts]),
            by_saliency=padded([part.by_saliency[0] for part in parts]),
            errors=torch.cat([part.errors for part in parts]),
        )
        return together, shown

    def _text_features(self, images: Sequence[PromptImage]) -> list[TextFeatures]:
        """The text tower's features of each image's text, computed once where several images have the same; none if
        the strategy doesn't need them.
        """
        tower = self._adapter.text_tower
        if tower is None or not self._strategy.needs & _FROM_TEXT_TOWER:
            return []
        texts = [self._processing.decode(image.text.tolist()) for image in images]
        distinct = list(dict.fromkeys(texts))
        passes = [distinct] if self._together else [[text] for text in distinct]
        found = dict(zip(distinct, (each for group in passes for each in tower.features(group)), strict=True))
        return [found[text] for text in texts]

    def _merge(self, images: Sequence[PromptImage], encoded: Sequence[Encoded], merged: Merged) -> list[Encoded]:
        """The images' tables with the merged tokens in the place of their targets."""
        tokens = self._adapter.project(merged.hidden)  # [B, C, D]
        out = []
        for table, at, targets, new in zip(encoded, self._sources(images), merged.targets, tokens, strict=True):
            # What has no target goes to a row after the table's, which is cut off.
            place = torch.where(targets < 0, len(table.tokens), at[targets.clamp_min(0)])
            changed = torch.cat([table.tokens, new[:1]]).index_copy(0, place, new)[:-1]
            out.append(Encoded(tokens=changed, saliency=table.saliency, deepstack=table.deepstack))
        return out

    def _sources(self, images: Sequence[PromptImage]) -> list[Tensor]:
        """int64 [N] each: the row of its image's table that holds each visual token."""
        return [self._table(image.geometry, "patches") for image in images]

    def _cues(
        self, images: Sequence[PromptImage], encoded: Sequence[Encoded], features: Sequence[TextFeatures]
    ) -> Cues:
        """The cues that the strategy needs, in the packed order of the N visual tokens."""
        needs = self._strategy.needs
        sources = self._sources(images)
        cues = {"valid": padded([torch.ones_like(source, dtype=torch.bool) for source in sources])}
        for name in needs & {"saliency", "keys", "hidden", "clip_visual"}:
            cues[name] = _gathered([getattr(table, name) for table in encoded], sources)
        if needs & {"visual", "similarity"}:
            cues["visual"] = _gathered([table.tokens for table in encoded], sources)
        if needs & {"text", "similarity"}:
            ids = [uploaded(torch.from_numpy(image.text), self._device) for image in images]
            cues["text_valid"] = padded([torch.ones_like(row, dtype=torch.bool) for row in ids])
            cues["text"] = self._adapter.embed(padded(ids))
        if "similarity" in needs:
            cues["similarity"] = text_similarity(cues["text"], cues["visual"], cues["text_valid"], cues["valid"])
        if "clip_text" in needs:
            cues["clip_text"] = torch.stack([each.whole for each in features])
        if "clip_words" in needs:
            words = [each.words for each in features]
            cues["clip_words"] = padded(words)
            cues["clip_words_valid"] = padded([torch.ones_like(row[:, 0], dtype=torch.bool) for row in words])
        if "neighbours" in needs:
            cues["neighbours"] = padded([self._table(image.geometry, "neighbours") for image in images], -1)
        if "seeds" in needs:
            cues["seeds"] = uploaded(torch.tensor([image.seed for image in images]), self._device)
        return Cues(**cues)


def _table(device: torch.device, geometry: Geometry, name: str) -> Tensor:
    """An attribute of `geometry`, int64 [N, ...]."""
    return uploaded(torch.from_numpy(getattr(geometry, name)), device)


def _gathered(tables: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """[B, longest, ...]: the rows of each table that stand at its places."""
    return padded([table.index_select(0, at) for table, at in zip(tables, places, strict=True)])
