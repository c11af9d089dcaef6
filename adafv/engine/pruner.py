"""Visual tokens to kept tokens: the cues that the strategy asks for, for each question, and its choice.

All samples of a batch at once on an accelerator; one by one on a CPU, so that no matrix product spans two of them and a
sample's cues are the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.engine.sample import Sample, seed_of
from adafv.models import Adapter, Encoded, Geometry, Processing, Reading
from adafv.pruning import Cues, Merged, Selection, Strategy, text_similarity

# Cues that only the text tower can give.
_READ = frozenset({"clip_text", "clip_words"})


class Pruner:
    """Prunes the images of a batch, for each of its questions.

    Args:
        text_scope: which text the text cue sees, see `EngineOptions`.
        together: whether the samples of a batch are pruned together.
    """

    def __init__(
        self, adapter: Adapter, processing: Processing, strategy: Strategy, text_scope: str, together: bool
    ) -> None:
        if strategy.needs & _READ and adapter.text_tower is None:
            raise ValueError(f"strategy {strategy.name!r} needs a text tower here, and the adapter has none")
        self._adapter, self._processing, self._strategy = adapter, processing, strategy
        self._text_scope, self._together = text_scope, together
        self._device = adapter.model.device

    def __call__(
        self,
        samples: Sequence[Sample],
        geometries: Sequence[Geometry],
        budgets: Sequence[int],
        images: Sequence[Encoded],
    ) -> tuple[Selection, list[Encoded]]:
        """The kept tokens, and the images as the language model is to see them: where the strategy merged tokens, a
        sample has an image of its own.

        Args:
            budgets: K of each sample.
            images: of each sample, as encoded.
        """
        readings = self._read(samples)
        step = len(samples) if self._together else 1
        parts: list[Selection] = []
        seen: list[Encoded] = []
        for start in range(0, len(samples), step):
            part = slice(start, start + step)
            cues = self._cues(samples[part], geometries[part], images[part], readings[part])
            selection = self._strategy.select(cues, torch.tensor(budgets[part]))
            parts.append(selection)
            seen += self._merge(geometries[part], images[part], selection.merged) if selection.merged else images[part]
        if len(parts) == 1:
            return parts[0], seen
        together = Selection(
            mask=_padded([part.mask[0] for part in parts]),
            by_text=_padded([part.by_text[0] for part in parts]),
            by_saliency=_padded([part.by_saliency[0] for part in parts]),
            flaws=torch.cat([part.flaws for part in parts]),
        )
        return together, seen

    def _read(self, samples: Sequence[Sample]) -> list[Reading]:
        """What the text tower makes of each sample's text, which is read once where several ask the same; nothing if
        the strategy doesn't need it.
        """
        tower = self._adapter.text_tower
        if tower is None or not self._strategy.needs & _READ:
            return []
        texts = [self._processing.decode(self._scope(sample).tolist()) for sample in samples]
        distinct = list(dict.fromkeys(texts))
        passes = [distinct] if self._together else [[text] for text in distinct]
        readings = dict(zip(distinct, (reading for group in passes for reading in tower.read(group)), strict=True))
        return [readings[text] for text in texts]

    def _merge(self, geometries: Sequence[Geometry], images: Sequence[Encoded], merged: Merged) -> list[Encoded]:
        """The images with the merged tokens in the place of their targets."""
        tokens = self._adapter.project(merged.hidden)  # [B, C, D]
        out = []
        for image, at, targets, new in zip(images, self._sources(geometries), merged.targets, tokens, strict=True):
            # What has no target goes to a row behind the image's, which nothing reads.
            place = torch.where(targets < 0, len(image.tokens), at[targets.clamp_min(0)])
            table = torch.cat([image.tokens, new[:1]]).index_copy(0, place, new)
            out.append(Encoded(table, image.saliency))
        return out

    def _sources(self, geometries: Sequence[Geometry]) -> list[Tensor]:
        """int64 [N] each: where among the patches of its image each visual token stands."""
        places = [torch.from_numpy(geometry.source[geometry.is_token]) for geometry in geometries]
        return [place.to(self._device, non_blocking=True) for place in places]

    def _cues(
        self,
        samples: Sequence[Sample],
        geometries: Sequence[Geometry],
        images: Sequence[Encoded],
        readings: Sequence[Reading],
    ) -> Cues:
        """The cues that the strategy needs, in the packed order of the N visual tokens."""
        needs = self._strategy.needs
        sources = self._sources(geometries)
        cues = {"valid": _padded([torch.ones_like(source, dtype=torch.bool) for source in sources])}
        for name in needs & {"saliency", "keys", "hidden", "clip_visual"}:
            cues[name] = _padded([getattr(image, name)[at] for image, at in zip(images, sources, strict=True)])
        if needs & {"visual", "similarity"}:
            cues["visual"] = _padded([image.tokens[at] for image, at in zip(images, sources, strict=True)])
        if needs & {"text", "similarity"}:
            ids = [torch.from_numpy(self._scope(sample)).to(self._device, non_blocking=True) for sample in samples]
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
            rows = [torch.from_numpy(getattr(geometry, name)) for geometry in geometries]
            cues[name] = _padded(rows, -1).to(self._device, non_blocking=True)
        if "seeds" in needs:
            cues["seeds"] = torch.tensor([seed_of(sample.id) for sample in samples], device=self._device)
        return Cues(**cues)

    def _scope(self, sample: Sample) -> np.ndarray:
        """int32 [T]: the tokens that the text cue sees."""
        if self._text_scope == "question":
            start, end = sample.question_span
            return sample.input_ids[start:end]
        return sample.input_ids[self._processing.image_place(sample.input_ids) + 1 :]


def _padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """[B, longest, ...], rows filled up at the end."""
    if len(rows) == 1:
        return rows[0][None]  # no copy
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
