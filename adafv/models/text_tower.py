"""CLIP's text tower: a question, in the space in which CLIP compares images with words.

A LLaVA model has CLIP's vision tower, and not the text tower that was trained beside it. CDPruner and EADP take it from
the CLIP checkpoint, and with it what leads the vision tower's states into the common space: the last layer norm and the
visual projection. CLIP applies these to [CLS] behind its last layer. Both authors' codes apply them to every patch at
the feature layer, the second to last in LLaVA, and so do we. What comes of that is told in `pruning.relevance`.

The layer norm is the CLIP checkpoint's even where the model's own vision tower has one. The norm and the projection
were trained as a pair. LLaVA's copy stands behind the layers that LLaVA uses: no training of LLaVA's reaches it, so
that it is either the same or, where a checkpoint lacks it, made of random numbers.

A text tower takes 77 tokens at once, a start and an end token among them. A longer question is cut into segments of 75,
each with a start and an end of its own, as if it were a question by itself. (The authors cut the whole sequence every
77 tokens: only the first segment has a start, only the last one an end, and the last is filled up with words.)

All is computed in float32, like the other cues. Attention is causal, so that what fills up a row changes nothing
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPModel

from adafv.uploading import uploaded


@dataclass(frozen=True, slots=True, eq=False)
class TextFeatures:
    """A question of T words (CLIP's tokens) in the common space, of E channels.

    Attributes:
        whole: float32 [E], the end token, which stands for all that is before it: a unit vector, or the mean of the
            segments' unit vectors.
        words: float32 [T, E], the words; the end token where there are none.
    """

    whole: Tensor
    words: Tensor


class TextTower:
    """The parts of a CLIP model that bring questions and patches together, on `device`, in float32.

    Args:
        model: a whole CLIP model; its vision encoder is not kept.
        tokenizer: the model's own.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, device: torch.device) -> None:
        self._text_model = model.text_model.eval().to(device)
        self._text_projection = model.text_projection.to(device)
        self._layer_norm = model.vision_model.post_layernorm.to(device)
        self._visual_projection = model.visual_projection.to(device)
        self._tokenizer, self._device = tokenizer, device
        config: Any = model.config.text_config
        self._room: int = config.max_position_embeddings - 2  # for words

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """float32 [..., E]: hidden states [..., H] of the vision tower, of any float dtype, in the common space."""
        return self._visual_projection(self._layer_norm(hidden.float()))

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode the texts together. Which others stand beside a text changes no more than the last bits."""
        questions = [self._segments(text) for text in texts]
        states = iter(self._states([segment for segments in questions for segment in segments]))
        return [_joined(list(islice(states, len(segments)))) for segments in questions]

    def _segments(self, text: str) -> list[list[int]]:
        """The text's token ids, without start and end, in segments that the text model has room for."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [ids[start : start + self._room] for start in range(0, max(1, len(ids)), self._room)]

    def _states(self, segments: Sequence[list[int]]) -> list[Tensor]:
        """float32 [n + 1, E] for each segment of n words: the words, then the end token."""
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        rows = [torch.tensor([start, *segment, end]) for segment in segments]
        ids = uploaded(pad_sequence(rows, batch_first=True, padding_value=end), self._device)
        states = self._text_projection(self._text_model(input_ids=ids).last_hidden_state)
        return [states[row, 1 : len(segment) + 2] for row, segment in enumerate(segments)]


def _joined(segments: Sequence[Tensor]) -> TextFeatures:
    """One question's segments, each with its end token last."""
    ends = torch.stack([segment[-1] for segment in segments])
    words = torch.cat([segment[:-1] for segment in segments])
    return TextFeatures(whole=F.normalize(ends, dim=-1).mean(dim=0), words=words if len(words) else ends)
