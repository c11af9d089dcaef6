"""What goes into the engine and what comes out: `Sample`, `Label`.

A `Sample` is one question about its images, often one, ready for the device: each image cut into uint8 crops as the
model's own processor cuts it, the prompt tokenised with the model's own chat template. It is made on a CPU by
`adafv.engine.prepare.Preparer` and holds no torch tensor, so that it travels between processes cheaply.

A `Label` is the answer to one sample, with everything that is needed to audit it: which visual tokens the language
model saw, where they lie on the image, how sure the model was, and what each stage cost. Stage times are the batch's,
divided over the batch's samples, so that sums over labels are true totals.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from adafv.models.geometry import Panel

TIMES = ("encode_ms", "prune_ms", "prefill_ms", "decode_ms")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PreparedImage:
    """An image, cut into crops for one model.

    Attributes:
        crops: uint8 [C, 3, H, W], the image as the model's processor crops and resizes it, not yet normalised.
        size: (height, width) of the whole image in pixels, as the processor got it.
        key: equal for the same pixels; such images are encoded once per batch.
        visual_tokens: N, how many visual tokens the model would see unpruned (newline embeddings not counted).
        whole: (height, width) before it was shrunk to `EngineOptions.max_image_tokens`; `size` where it wasn't.
    """

    crops: np.ndarray
    size: tuple[int, int]
    key: str
    visual_tokens: int
    whole: tuple[int, int]

    @property
    def scale(self) -> float:
        """By how much the image was shrunk before; 1 where it wasn't."""
        return math.sqrt(math.prod(self.size) / math.prod(self.whole))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample:
    """One question, prepared.

    Attributes:
        id: the row's id; seeds the strategy `random`.
        images: those that the prompt shows, in its order; none where it is only text.
        input_ids: int32 [T], the templated prompt with a placeholder for each run of each image's visual tokens.
        question_places: int32 [Q], where in `input_ids` the question itself stands, without the template, what was said
            before it, and placeholders.
        stratum: of which kind the row is, where `EngineOptions.thresholds` differ by kind.
        choices: its own, of which the answer is one; empty where it has none but `EngineOptions.choices`.
        fits_unpruned: whether the prompt with all visual tokens, and the longest answer, fit the model's context.
    """

    id: str
    images: tuple[PreparedImage, ...]
    input_ids: np.ndarray
    question_places: np.ndarray
    stratum: str | None = None
    choices: tuple[str, ...] = ()
    fits_unpruned: bool = True

    @property
    def visual_tokens(self) -> int:
        """N of all images."""
        return sum(image.visual_tokens for image in self.images)


@dataclass(frozen=True, slots=True)
class Part:
    """What a label says of one of its sample's images.

    Attributes:
        panels: how many panels of the label's grid are the image's.
        visual_tokens: how many of the sample's visual tokens; kept_tokens: how many of them were kept.
    """

    panels: int
    visual_tokens: int
    kept_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAnswer:
    """One of several answers that were sampled for a row.

    Attributes:
        answer: its text; None where `max_new_tokens` cut it off before it was what `EngineOptions` hold it to.
        mean_logprob, output_tokens: as for `Label`, of this one.
    """

    answer: str | None
    mean_logprob: float
    output_tokens: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Label:
    """The answer to one sample, what it was based on, and what it cost.

    Attributes:
        id: the sample's.
        answer: the decoded text, without special tokens, stripped.
        finish_reason: `stop` (the model ended the answer) or `length` (`max_new_tokens` did).
        mean_logprob: mean log-probability of the answer's tokens, the end token included.
        confidence: how sure the model is of the answer, in float32: its `mean_logprob`; of a choice, by how much it is
            more probable than the next one, from 0 to 1.
        flags: what is wrong with the answer, as far as it shows: some of `adafv.engine.flags.FLAGS`.
        choice_probabilities: of each choice, in their order; they sum to 1. None where there are no choices.
        samples: the answers that were sampled, of which `answer` is the one with the highest `mean_logprob`; None where
            `EngineOptions.samples` is.
        keep: the keep ratio that the answer was made with; None where `keep_tokens` says how many.
        looks: 2 where the first answer wasn't sure and the question was asked again (`EngineOptions.escalate`), else 1.
        visual_tokens: N, those of all images; `kept_tokens`: how many of them the language model saw.
        kept_indices: int32 [kept_tokens], positions in the unpruned visual sequence, image after image, ascending.
        kept_cues: int8 [kept_tokens], for which cue each is kept: 1 text, 2 saliency, 3 both, 0 neither.
        from_text, from_saliency: how many each cue contributed (for `adafv` i and j of the mixture, which may overlap).
        grid: where the N tokens lie on the images, image after image.
        parts: one for each image in turn: the first has the first `visual_tokens` and the first `panels`, and so on.
        prompt_tokens: length of the language model's prompt, kept visual tokens included.
        padded_tokens: the positions that it took in its group's prefill, padding included.
        output_tokens: tokens generated, the end token included; of all `samples`.
        batch_size: how many samples shared the batch.
        encode_ms, prune_ms, prefill_ms, decode_ms: this sample's share of the batch's stage times, and of those of the
            batch of second looks that it was in.
        audit_answer: what the unpruned model answers; None where the sample isn't audited.
        first_answer, first_confidence, first_kept_indices: what the first of two looks gave; None where there was one.
        problem: why there is no answer, where there is none; empty where there is one.
        error: then `label_failed` (the model computed none) or `answer_incomplete` (`max_new_tokens` cut it off before
            it was what `EngineOptions` hold it to).
    """

    id: str
    answer: str
    finish_reason: str
    mean_logprob: float
    confidence: float
    flags: tuple[str, ...] = ()
    choice_probabilities: dict[str, float] | None = None
    samples: tuple[SampledAnswer, ...] | None = None
    keep: float | None
    looks: int = 1
    visual_tokens: int
    kept_tokens: int
    kept_indices: np.ndarray
    kept_cues: np.ndarray
    from_text: int
    from_saliency: int
    grid: tuple[Panel, ...]
    parts: tuple[Part, ...]
    prompt_tokens: int
    padded_tokens: int
    output_tokens: int
    batch_size: int
    encode_ms: float
    prune_ms: float
    prefill_ms: float
    decode_ms: float
    first_answer: str | None = None
    first_confidence: float | None = None
    first_kept_indices: np.ndarray | None = None
    audit_answer: str | None = None
    problem: str = ""
    error: str = ""

    def after(self, first: Label) -> Label:
        """This label, of the second look, with what the `first` one gave and took."""
        return replace(
            self._with_times_of(first),
            looks=2,
            batch_size=first.batch_size,
            first_answer=first.answer,
            first_confidence=first.confidence,
            first_kept_indices=first.kept_indices,
        )

    def audited(self, unpruned: Label) -> Label:
        """This label, with what the unpruned model answered, if that is an answer, and took."""
        answer = None if unpruned.problem else unpruned.answer
        return replace(self._with_times_of(unpruned), audit_answer=answer)

    def as_unpruned(self) -> Label:
        """This label, which kept all tokens, as audited by itself."""
        return replace(self, audit_answer=self.answer)

    def _with_times_of(self, other: Label) -> Label:
        times = {name: getattr(self, name) + getattr(other, name) for name in TIMES}
        return replace(self, **times)


def seed_of(*parts: str) -> int:
    """A signed 64-bit integer, the same for the same strings on every machine."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little", signed=True)
