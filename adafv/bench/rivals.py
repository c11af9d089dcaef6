"""Ways to answer the same questions with the same weights: stock transformers, the reference method, and the engine.

A rival first prepares its batches, work for CPUs that isn't timed: pictures are cut into crops and prompts tokenised,
by the same image processor and tokenizer for all. Then it starts, which isn't timed either, and answers batch after
batch, from what lies in the host's memory to answers in words.

`Stock` is what a careful user writes: transformers' own model class, processor and `generate`, SDPA, batches. A batch
that doesn't fit is halved, and the size that was found is kept.

`Reference` is AdaFV's method as its authors' code does it, written anew from its description: one sample at a time, all
layers of the tower with eager attention and all their matrices in memory, of which one row is read; the text cue from
all that follows the image; the published rule.

`Vllm` is the engine with its other back end, which loads a checkpoint from a folder, and changes the process that it is
in: it is for a process of its own.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from adafv.bench.ceilings import synchronise
from adafv.bench.shapes import BenchQuestion, Subject
from adafv.counting import TokenCounts
from adafv.engine import Engine, EngineOptions, Label, PreparedImage, Preparer, Sample
from adafv.engine.faults import is_out_of_memory
from adafv.engine.stopwatch import Stopwatch
from adafv.hardware import keep_freed_memory
from adafv.models import Adapter, GeneralAdapter, Geometry, Processing
from adafv.models.general_processing import GeneralProcessing
from adafv.models.probe import probe
from adafv.pruning import mix_paper, text_similarity

STAGES = ("encode", "prune", "prefill", "decode")


@dataclass(frozen=True, slots=True, eq=False)
class BatchAnswers:
    """The answers to a batch, and what they took.

    Attributes:
        answers: one for each question.
        counts: likewise, the tokens that it took.
        crops: how many went through the tower.
        at_once: the most questions that were answered together.
        stage_ms: the stages' times, of the whole batch.
    """

    answers: list[str]
    counts: list[TokenCounts]
    crops: int
    at_once: int
    stage_ms: dict[str, float]

    def __add__(self, other: BatchAnswers) -> BatchAnswers:
        return BatchAnswers(
            self.answers + other.answers,
            self.counts + other.counts,
            self.crops + other.crops,
            max(self.at_once, other.at_once),
            {stage: self.stage_ms[stage] + other.stage_ms[stage] for stage in STAGES},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Started:
    """What answers batches.

    Attributes:
        answer: of a batch as the rival prepares it.
        model: a model of its own, with those of the shared weights that it didn't replace by others.
    """

    answer: Callable[[Any], BatchAnswers]
    model: nn.Module


class EngineTerms(Protocol):
    """What a measurement says of the engine, whatever is kept."""

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...


def engine_options(terms: EngineTerms, strategy: str, keep: float, backend: str = "transformers") -> EngineOptions:
    return EngineOptions(
        strategy=strategy,
        keep=keep,
        max_new_tokens=terms.max_new_tokens,
        device=terms.device,
        dtype=terms.dtype,
        backend=backend,
    )


def timed(started: Started, batch: Any, device: torch.device) -> tuple[float, BatchAnswers]:
    """The seconds that a batch takes, and its answers."""
    synchronise(device)
    start = time.perf_counter()
    answers = started.answer(batch)
    synchronise(device)
    return time.perf_counter() - start, answers


class Rival(ABC):
    """One way.

    Attributes:
        batch_size: how many questions it takes at once.
    """

    batch_size: int

    @abstractmethod
    def prepare(self, questions: Sequence[BenchQuestion]) -> Any:
        """A batch of at most `batch_size` questions."""

    @abstractmethod
    def start(self) -> Started:
        """Make what answers such batches."""


class Ours(Rival):
    """The engine, with `options`."""

    def __init__(self, subject: Subject, options: EngineOptions, batch_size: int) -> None:
        self.batch_size = batch_size
        self._subject, self._options = subject, options

    def prepare(self, questions: Sequence[BenchQuestion]) -> list[Sample]:
        return _samples(Preparer(self._subject.processing, self._options), questions)

    def start(self) -> Started:
        keep_freed_memory()  # as a job's workers do
        processing = self._subject.processing
        adapter = processing.family(self._subject.fresh_model(), processing.normalisation())
        return Started(_Ours(self.engine(adapter, processing)), adapter.model)

    def engine(self, adapter: Adapter, processing: Processing) -> Engine:
        return Engine(adapter, processing, self._options)


class General(Ours):
    """The engine with the adapter for types that have none of their own."""

    def __init__(self, subject: Subject, options: EngineOptions, batch_size: int) -> None:
        super().__init__(subject, options, batch_size)
        self._processing = GeneralProcessing(
            family=GeneralAdapter,
            config=subject.model.config,
            processor=subject.processor,
            chat_template=subject.processor.chat_template,
        )

    def prepare(self, questions: Sequence[BenchQuestion]) -> list[Sample]:
        return _samples(Preparer(self._processing, self._options), questions)

    def start(self) -> Started:
        keep_freed_memory()
        adapter = GeneralAdapter(self._subject.fresh_model(), self._processing.normalisation())
        probe(adapter, self._processing)
        return Started(_Ours(self.engine(adapter, self._processing), self._crops), adapter.model)

    def _crops(self, image: PreparedImage) -> int:
        return self._subject.processing.geometry(image.size).crops


class Again(Ours):
    """The engine, which asks a `share` of each batch again unpruned: the least sure, whatever their confidence is."""

    def __init__(self, subject: Subject, options: EngineOptions, batch_size: int, share: float) -> None:
        super().__init__(subject, replace(options, escalate=1.0, escalate_below=math.inf), batch_size)
        self._share = share

    def engine(self, adapter: Adapter, processing: Processing) -> Engine:
        return _ShareAgain(adapter, processing, self._options, self._share)


class _ShareAgain(Engine):
    def __init__(self, adapter: Adapter, processing: Processing, options: EngineOptions, share: float) -> None:
        super().__init__(adapter, processing, options)
        self._share = share

    def _unsure(self, samples: Sequence[Sample], labels: Sequence[Label]) -> list[int]:
        order = sorted(range(len(labels)), key=lambda row: labels[row].confidence)
        least = 1 if self._share else 0  # of a single answer, which warms up, too
        return sorted(order[: max(least, round(self._share * len(labels)))])


def _samples(preparer: Preparer, questions: Sequence[BenchQuestion]) -> list[Sample]:
    return [preparer.prepare(str(number), one.image, one.text) for number, one in enumerate(questions)]


class _Ours:
    def __init__(self, engine: Engine, crops: Callable[[PreparedImage], int] = lambda image: len(image.crops)) -> None:
        self._engine, self._crops = engine, crops
        self._last = ""  # picture of the batch before's last question, which the engine still has

    def __call__(self, samples: Sequence[Sample]) -> BatchAnswers:
        labels = self._engine.label(samples)
        shown = [image for sample in samples for image in sample.images]
        crops = {image.key: self._crops(image) for image in shown if image.key != self._last}
        self._last = shown[-1].key
        return BatchAnswers(
            [label.answer for label in labels],
            [count for each in zip(samples, labels, strict=True) for count in _counts(*each)],
            sum(crops.values()),
            max(label.batch_size for label in labels),
            {stage: sum(getattr(label, f"{stage}_ms") for label in labels) for stage in STAGES},
        )


def _counts(sample: Sample, label: Label) -> list[TokenCounts]:
    """Of the look that answered, and of the one before it, if there was one: its padding isn't known."""
    answered = TokenCounts(
        positions=label.prompt_tokens,
        padded=label.padded_tokens,
        outputs=label.output_tokens,
        visual=label.visual_tokens,
        kept=label.kept_tokens,
        words=len(sample.question_places),
    )
    if label.first_kept_indices is None:
        return [answered]
    kept = len(label.first_kept_indices)
    positions = len(sample.input_ids) - len(sample.images) + kept  # a placeholder for each image
    return [replace(answered, positions=positions, padded=positions, kept=kept), answered]


class Vllm(Rival):
    """The engine with vLLM, on the model that is saved in `folder`. It shares no weights."""

    def __init__(self, folder: str, options: EngineOptions, batch_size: int) -> None:
        self.batch_size = batch_size
        self._folder, self._options = folder, options

    def prepare(self, questions: Sequence[BenchQuestion]) -> list[Sample]:
        return _samples(Preparer.load(self._folder, self._options), questions)

    def start(self) -> Started:
        keep_freed_memory()
        return Started(_Ours(Engine.load(self._folder, self._options)), nn.Module())


class Stock(Rival):
    """transformers' `generate` on whole batches, nothing pruned."""

    def __init__(self, subject: Subject, max_new_tokens: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self._subject, self._max_new_tokens = subject, max_new_tokens

    def prepare(self, questions: Sequence[BenchQuestion]) -> tuple[dict[str, Tensor], list[Geometry]]:
        text = [_prompt(self._subject.processor, question) for question in questions]
        images = [question.image for question in questions]
        inputs = self._subject.processor(images=images, text=text, padding=True, return_tensors="pt")
        return dict(inputs), [self._subject.processing.geometry((image.height, image.width)) for image in images]

    def start(self) -> Started:
        model = self._subject.fresh_model()
        return Started(_Stock(model, self._subject.processing, self._max_new_tokens, self.batch_size), model)


class _Stock:
    def __init__(self, model: Any, processing: Processing, max_new_tokens: int, batch_size: int) -> None:
        self._model, self._decode = model, processing.decode
        self._max_new_tokens, self._most = max_new_tokens, batch_size

    def __call__(self, batch: tuple[dict[str, Tensor], list[Geometry]]) -> BatchAnswers:
        inputs, geometries = batch
        parts = [slice(start, start + self._most) for start in range(0, len(geometries), self._most)]
        try:
            answered = [self._answer({k: v[part] for k, v in inputs.items()}, geometries[part]) for part in parts]
            return reduce(add, answered)
        except Exception as error:
            if not is_out_of_memory(error) or self._most == 1:
                raise
        # Out here the exception is gone, and with it the frames that hold on to the tensors of the failed attempt.
        self._most //= 2
        return self(batch)

    @torch.inference_mode()
    def _answer(self, inputs: dict[str, Tensor], geometries: Sequence[Geometry]) -> BatchAnswers:
        model = self._model
        watch = Stopwatch(model.device)
        hook = model.model.multi_modal_projector.register_forward_hook(lambda *_: watch.lap("encode"))
        given = {name: _moved(tensor, model) for name, tensor in inputs.items()}
        longest = inputs["input_ids"].shape[1]
        new = _generate(model, watch, self._max_new_tokens, **given)[:, longest:]
        hook.remove()
        answers = [self._decode(row) for row in new.tolist()]
        watch.lap("decode")
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        counts = [
            TokenCounts(
                positions=length,
                padded=longest,
                outputs=new.shape[1],
                visual=geometry.visual_tokens,
                kept=geometry.visual_tokens,
                words=0,
            )
            for length, geometry in zip(lengths, geometries, strict=True)
        ]
        crops = sum(geometry.crops for geometry in geometries)
        return BatchAnswers(answers, counts, crops, len(answers), _times(watch))


class Reference(Rival):
    """AdaFV as its authors' code does it, `keep` of the visual tokens kept at most."""

    batch_size = 1

    def __init__(self, subject: Subject, keep: float, max_new_tokens: int) -> None:
        self._subject, self._keep, self._max_new_tokens = subject, keep, max_new_tokens

    def prepare(self, questions: Sequence[BenchQuestion]) -> tuple[Tensor, Tensor]:
        """Pixel values [C, 3, H, W], and the prompt's ids [T] with one placeholder."""
        (question,) = questions
        processor = self._subject.processor
        pixels = processor.image_processor(question.image, return_tensors="pt")["pixel_values"]
        ids = processor.tokenizer(_prompt(processor, question), return_tensors="pt")["input_ids"]
        return pixels.flatten(0, -4), ids[0]

    def start(self) -> Started:
        model = self._subject.fresh_model()
        model.model.vision_tower.set_attn_implementation("eager")
        return Started(partial(self._answer, model), model)

    @torch.inference_mode()
    def _answer(self, model: Any, given: tuple[Tensor, Tensor]) -> BatchAnswers:
        watch = Stopwatch(model.device)
        pixels, ids = (_moved(tensor, model) for tensor in given)
        tokens, saliency = self._encode(model, pixels)
        watch.lap("encode")
        at = int((ids == model.config.image_token_id).nonzero())
        text = model.get_input_embeddings()(ids)
        similarity = text_similarity(text[None, at + 1 :], tokens[None])
        kept = mix_paper(saliency[None], similarity, round(self._keep * len(tokens))).mask[0]
        embeds = torch.cat([text[:at], tokens[kept], text[at + 1 :]])[None]
        present = torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
        watch.lap("prune")
        (new,) = _generate(model, watch, self._max_new_tokens, inputs_embeds=embeds, attention_mask=present).tolist()
        answer = self._subject.processing.decode(new)
        watch.lap("decode")
        length, words = embeds.shape[1], len(text) - at - 1
        counts = TokenCounts(
            positions=length,
            padded=length,
            outputs=len(new),
            visual=len(tokens),
            kept=int(kept.sum()),
            words=words,
        )
        return BatchAnswers([answer], [counts], len(pixels), 1, _times(watch))

    def _encode(self, model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Projected tokens [N, D] and their saliency [N], crop after crop."""
        layer = model.config.vision_feature_layer
        out = model.model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
        saliency = out.attentions[layer][:, :, 0, 1:].mean(dim=1)
        return model.model.multi_modal_projector(out.hidden_states[layer][:, 1:]).flatten(0, 1), saliency.flatten()


class _Prefilled(LogitsProcessor):
    """Changes nothing; the first token's scores end prefill."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch, self._prefilled = watch, False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._prefilled:
            self._watch.lap("prefill")
        self._prefilled = True
        return scores


def _generate(model: Any, watch: Stopwatch, max_new_tokens: int, **inputs: Tensor) -> Tensor:
    observer = LogitsProcessorList([_Prefilled(watch)])
    return model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=observer)


def _prompt(processor: Any, question: BenchQuestion) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _moved(tensor: Tensor, model: Any) -> Tensor:
    """On the model's device; pixels also in its dtype."""
    return tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)


def _times(watch: Stopwatch) -> dict[str, float]:
    times = watch.milliseconds()
    return {stage: times[stage] for stage in STAGES}
