"""The engine: one batch of samples in, one label each out.

Each distinct image of a batch is encoded once. Its visual tokens are then pruned once per question, the kept ones take
the image's place in the prompt, and the language model answers all prompts together. A prompt may show several images,
or none.

Batch invariance. Which tokens are kept must not depend on a sample's neighbours. On a CPU, matrix products of other
shapes round differently in the last bit, and a bit can turn a near-tie. So on a CPU each image is encoded by itself and
each question's cues are computed by themselves: it costs next to nothing there, and makes the same bits come out of
every batch. On an accelerator both are batched.

Second looks. An answer that isn't sure is asked again with more visual tokens (`EngineOptions.escalate`). The batch's
images stay encoded until its last answer, so a second look costs its selection, prefill and decoding only; those of a
batch are asked together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adafv.engine.choices import ChoiceScorer, ScoredAnswer
from adafv.engine.controls import Stops, end_tokens
from adafv.engine.encoder import Encoder
from adafv.engine.faults import BatchSplitter
from adafv.engine.flags import flags_of
from adafv.engine.generation import Answer, Generator
from adafv.engine.grammar import Grammar
from adafv.engine.options import EngineOptions
from adafv.engine.prepare import Preparer
from adafv.engine.prompt_image import PromptImage, prompt_images
from adafv.engine.pruner import Pruner
from adafv.engine.sample import TIMES, Label, Part, Sample, SampledAnswer, seed_of
from adafv.engine.sequence import Prompts, grouped, lay_out
from adafv.engine.stopwatch import Stopwatch
from adafv.engine.vllm import VllmGenerator, check_family
from adafv.hardware import cpu_name
from adafv.models import (
    Adapter,
    Encoded,
    Geometry,
    Processing,
    best_attention,
    load_adapter,
    load_processing,
    load_text_tower,
)
from adafv.pruning import Selection, Strategy
from adafv.uploading import uploaded

# Positions that pass through the language model together in prefill, on a CPU and on an accelerator: enough to fill it,
# few enough to bound its activations.
_POSITIONS_PER_PASS = (1024, 32768)

_Kept = tuple[Geometry, np.ndarray, np.ndarray]  # of an image: where its tokens lie, the kept ones, and their cues

_AMPERE = (8, 0)  # the compute capability of the first GPUs that have bfloat16


def load_model(model: str, options: EngineOptions) -> tuple[Adapter, Processing]:
    """Load `model`, a folder or hub id, onto the device that `options` name, in their dtype; with their text tower, and
    without the language model where that is another back end's. On a GPU it turns cuDNN's attention off, for the whole
    process.

    Raises:
        ValueError: the model is of no supported family, its configuration can't be pruned, the back end can't do it, or
            the text tower is no CLIP model or doesn't fit.
        OSError: there is no such model, or a file of it is missing.
    """
    device = torch.device(_device(options.device))
    if device.type == "cuda":
        # On an H100 torch's first choice. It plans anew for each shape, and decoding has a new one at every step.
        torch.backends.cuda.enable_cudnn_sdp(False)
    processing = load_processing(model, options.image_settings)
    ours = options.backend == "transformers"
    if not ours:
        check_family(processing)
    dtype = _dtype(options.dtype, device)
    adapter = load_adapter(model, processing, device, dtype, language_model=ours, quantized=options.quantize)
    if options.text_tower is not None:
        adapter.text_tower = load_text_tower(options.text_tower, processing, device)
    return adapter, processing


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One way to ask: with which budget, what prunes to it, and what splits its batches."""

    options: EngineOptions
    pruner: Pruner
    splitter: BatchSplitter


class Engine:
    """A loaded model with one set of options. `label` may be called any number of times, from one thread.

    Args:
        adapter, processing: the model, which several engines may share.
        strategy: a rule in place of the one that `options` name, for one that has no name.
        generator: what answers, where that isn't our own loop over the adapter's language model.
    """

    def __init__(
        self,
        adapter: Adapter,
        processing: Processing,
        options: EngineOptions,
        *,
        strategy: Strategy | None = None,
        generator: Generator | VllmGenerator | None = None,
    ) -> None:
        self._adapter, self._processing, self._options = adapter, processing, options
        self._device = adapter.model.device
        self._strategy = strategy or options.rule
        self._batched = self._device.type != "cpu"
        self._encoder = Encoder(adapter, self._strategy.needs, together=self._batched)
        self._first = self._look(options, self._strategy)
        self._again = None
        if options.second_look is not None:
            self._again = self._look(options.second_look, None if options.escalate == 1 else strategy)
        self._audit = self._look(options.unpruned, None) if options.audit else None
        if generator is None and options.backend != "transformers":
            raise ValueError(f"backend {options.backend!r} needs a generator; `Engine.load` makes one")
        self._generator = generator or Generator(adapter, options, processing, _grammar(adapter, processing, options))
        self._grammar = self._generator.grammar
        self._scorer = ChoiceScorer(adapter, processing, options.answer_prefix or "")
        self._stops = None if options.stop is None else Stops(options, processing)

    def _look(self, options: EngineOptions, strategy: Strategy | None) -> _Look:
        rule = strategy or options.rule
        pruner = Pruner(self._adapter, self._processing, rule, together=self._batched)
        return _Look(options, pruner, BatchSplitter())

    @classmethod
    def load(cls, model: str, options: EngineOptions) -> Engine:
        """Load `model`, a folder or hub id, onto the device that `options` name. Errors as for `load_model`, and a
        ValueError where vLLM is asked for and can't be had (see `VllmGenerator`).
        """
        adapter, processing = load_model(model, options)
        generator = None
        if options.backend == "vllm":
            generator = VllmGenerator(model, adapter, options, processing, _grammar(adapter, processing, options))
        return cls(adapter, processing, options, generator=generator)

    @property
    def device_name(self) -> str:
        """What the engine runs on, for the record: a GPU's or a processor's name."""
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else cpu_name()

    @property
    def attention_name(self) -> str:
        """The language model's attention in prefill, for the record; another back end has its own."""
        ours = self._options.backend == "transformers"
        return best_attention(self._device, self._adapter.model.dtype) if ours else self._options.backend

    @property
    def dtype_name(self) -> str:
        """The dtype of the weights, without torch's prefix."""
        return str(self._adapter.model.dtype).removeprefix("torch.")

    def try_out(self) -> None:
        """Answer a question about a grey image with one token, in each of the looks, to fail early and to warm up.

        Raises:
            ArithmeticError: the model computes no answer to it.
        """
        threshold = None if self._options.escalate is None else math.inf  # so that there is a second look
        audit = 1.0 if self._options.audit else 0.0
        short: dict[str, Any] = {"max_new_tokens": 1, "min_new_tokens": None}
        options = replace(self._options, **short, escalate_below=threshold, thresholds=None, audit=audit)
        sample = Preparer(self._processing, options).prepare("", Image.new("RGB", (64, 64), "grey"), "What is this?")
        generator = self._generator.with_options(options)
        engine = Engine(self._adapter, self._processing, options, strategy=self._strategy, generator=generator)
        [label] = engine.label([sample])
        if label.error == "label_failed":
            raise ArithmeticError(label.problem)

    def label(self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None) -> list[Label]:
        """Answer the samples as one batch, or in parts where that doesn't fit the device; in the samples' order.

        Args:
            on_progress: called whenever an image is encoded or a token is generated, so that a caller can tell a batch
                that takes long from one that hangs.

        Raises:
            torch.OutOfMemoryError: there is a sample that doesn't fit by itself. Where the device is a CPU, the errors
                that `is_out_of_memory` knows.
        """
        return self._first.splitter.label(samples, lambda part: self._label(part, on_progress))

    @torch.inference_mode()
    def _label(self, samples: Sequence[Sample], on_progress: Callable[[], None]) -> list[Label]:
        """Answer the samples as one batch."""
        watch = Stopwatch(self._device)
        images = prompt_images(samples, self._processing, self._options)
        tables = self._arranged(samples, images, self._encoder(samples, on_progress))
        watch.lap("encode")
        labels = self._answer(self._first, samples, images, tables, watch, on_progress)
        own: list[list[Encoded]] = [[] for _ in samples]
        for image, table in zip(images, tables, strict=True):
            own[image.sample].append(table)
        if self._again is not None:
            unsure = self._unsure(samples, labels)
            for row, label in self._asked(self._again, unsure, samples, own, on_progress).items():
                labels[row] = label.after(labels[row])
        if self._audit is not None:
            drawn = [row for row, sample in enumerate(samples) if self._is_audited(sample)]
            pruned = [row for row in drawn if labels[row].kept_tokens < labels[row].visual_tokens]
            unpruned = self._asked(self._audit, pruned, samples, own, on_progress, misfits=[])
            for row, whole in unpruned.items():
                labels[row] = labels[row].audited(whole)
            for row in {*drawn} - {*pruned}:
                labels[row] = labels[row].as_unpruned()
        return labels

    def _asked(
        self,
        look: _Look,
        rows: Sequence[int],
        samples: Sequence[Sample],
        tables: Sequence[Sequence[Encoded]],
        on_progress: Callable[[], None],
        misfits: list[int] | None = None,
    ) -> dict[int, Label]:
        """The answers to the questions that are asked again, by the sample's place in the batch.

        Args:
            rows: which samples; `tables`: of each sample's images.
            misfits: see `BatchSplitter.label`.
        """

        def ask(rows: Sequence[int]) -> list[Label]:
            watch, some = Stopwatch(self._device), [samples[row] for row in rows]
            shown = prompt_images(some, self._processing, look.options)
            return self._answer(look, some, shown, [table for row in rows for table in tables[row]], watch, on_progress)

        labels = look.splitter.label(rows, ask, misfits)
        answered = [row for place, row in enumerate(rows) if not misfits or place not in misfits]
        return dict(zip(answered, labels, strict=True))

    def _is_audited(self, sample: Sample) -> bool:
        """Whether a sample is in the share that is drawn, the same ones every time, and fits the context unpruned."""
        return sample.fits_unpruned and (seed_of("audit", sample.id) + 2**63) / 2**64 < self._options.audit

    def _unsure(self, samples: Sequence[Sample], labels: Sequence[Label]) -> list[int]:
        """Which of the answers aren't sure, and would be to more visual tokens."""
        options, again = self._options, self._options.second_look
        if again is None:
            return []
        flagged = {*(options.escalate_flags or ())}

        def sees_more(sample: Sample) -> bool:
            counts = [image.visual_tokens for image in sample.images]
            return any(again.kept_of(count) > options.kept_of(count) for count in counts)

        def is_unsure(sample: Sample, label: Label) -> bool:
            below = options.escalate_below is not None and label.confidence < options.threshold_of(sample.stratum)
            return (below or not flagged.isdisjoint(label.flags)) and sees_more(sample)

        return [row for row, pair in enumerate(zip(samples, labels, strict=True)) if is_unsure(*pair)]

    def _answer(
        self,
        look: _Look,
        samples: Sequence[Sample],
        images: Sequence[PromptImage],
        tables: Sequence[Encoded],
        watch: Stopwatch,
        on_progress: Callable[[], None],
    ) -> list[Label]:
        """Prune the samples' images, which are encoded as `tables`, and answer; all that `watch` has seen is theirs."""
        choices = [sample.choices or self._options.choices or () for sample in samples]
        scored = any(choices)
        selection, shown = look.pruner(images, tables)
        alone = self._adapter.states or (scored and not self._batched)
        groups = self._assemble(samples, images, shown, selection.mask, alone=alone)
        watch.lap("prune")
        queued: dict[str, Any] = {"on_prefilled": lambda: watch.lap("prefill"), "on_step": on_progress}
        found: Sequence[Answer]
        many = self._options.samples or 1
        if scored:
            found = self._scorer(groups, choices, **queued)
        else:
            numbers = [str(self._options.seed + number) for number in range(many)]
            seeds = [seed_of(number, sample.id) for sample in samples for number in numbers]
            found = self._generator(groups, seeds, **queued, prompt_ids=[sample.input_ids for sample in samples])
        watch.lap("decode")
        times = watch.milliseconds()
        common: dict[str, Any] = {name: times[name.removesuffix("_ms")] / len(samples) for name in TIMES}
        common["keep"] = look.options.ratio
        drawn = [found[first : first + many] for first in range(0, len(found), many)]
        said = [self._best(*each) for each in zip(drawn, choices, strict=True)]
        labels = _labels(samples, images, selection.check(), groups, said, common)
        return [label if math.isfinite(label.mean_logprob) else self._without_answer(label) for label in labels]

    def _best(self, answers: Sequence[Answer], choices: Sequence[str]) -> dict[str, Any]:
        """What a label says of the most probable of its row's answers, and of the others. A complete one comes before
        one that isn't; and one whose scores aren't finite, which spoils the row, before all.
        """
        said = [self._said(answer, choices) for answer in answers]
        ranks = [
            (not math.isfinite(answer.mean_logprob), "problem" not in own, answer.mean_logprob)
            for answer, own in zip(answers, said, strict=True)
        ]
        best = max(range(len(answers)), key=ranks.__getitem__)
        own, answer = said[best], answers[best]
        prefix = "" if choices else self._options.answer_prefix or ""  # which the model hasn't said
        return own | {
            "finish_reason": answer.finish_reason,
            "mean_logprob": answer.mean_logprob,
            "flags": flags_of(own["answer"].removeprefix(prefix), answer.finish_reason),
            "output_tokens": sum(len(one.ids) for one in answers),
            "samples": None if self._options.samples is None else tuple(map(_sampled, answers, said)),
        }

    def _said(self, answer: Answer, choices: Sequence[str]) -> dict[str, Any]:
        """An answer's text, and how sure it is; or why it is none."""
        confidence = float(np.float32(answer.mean_logprob))
        if isinstance(answer, ScoredAnswer):
            return {
                "answer": choices[answer.choice],
                "confidence": float(np.float32(answer.lead)),
                "choice_probabilities": dict(zip(choices, answer.probabilities, strict=True)),
            }
        if self._grammar is None:
            return {"answer": self._text(answer.ids), "confidence": confidence}
        text, fulfilled = self._grammar.text(answer.ids)
        if fulfilled:
            return {"answer": text, "confidence": confidence}
        problem = f"the answer isn't complete after {len(answer.ids)} tokens (--max-new-tokens): {text}"
        return {"answer": "", "confidence": confidence, "problem": problem, "error": "answer_incomplete"}

    def _text(self, ids: list[int]) -> str:
        if self._stops is not None:
            return self._stops.text(ids)
        prefix = self._options.answer_prefix
        return self._processing.decode([*([] if prefix is None else self._processing.answer_ids(prefix)), *ids])

    def _without_answer(self, label: Label) -> Label:
        wider = "" if self._adapter.model.dtype == torch.float32 else "; bfloat16 or float32 may hold them (--dtype)"
        problem = f"the model's scores are NaN or infinite: its numbers don't fit {self.dtype_name}{wider}"
        return replace(label, answer="", problem=problem, error="label_failed")

    def _arranged(
        self, samples: Sequence[Sample], images: Sequence[PromptImage], encoded: Sequence[Encoded]
    ) -> list[Encoded]:
        """Each image as the table that its geometry points into; one object for those that are the same."""
        prepared = [image for sample in samples for image in sample.images]
        tables: dict[str, Encoded] = {}
        for image, prompt_image, patches in zip(prepared, images, encoded, strict=True):
            if image.key not in tables:
                tables[image.key] = self._adapter.arrange(patches, prompt_image.geometry, image.size)
        return [tables[image.key] for image in prepared]

    def _assemble(
        self,
        samples: Sequence[Sample],
        images: Sequence[PromptImage],
        encoded: Sequence[Encoded],
        mask: Tensor,
        alone: bool,
    ) -> list[Prompts]:
        """The prompts as embeddings, with the kept visual tokens, bool [V, N], of V images: in groups of like length,
        or each `alone`.
        """
        ids = torch.from_numpy(np.concatenate([sample.input_ids for sample in samples]))
        text = self._adapter.embed(uploaded(ids, self._device))
        if self._adapter.newline is not None:
            text = torch.cat([text, self._adapter.newline[None]])
        layout = lay_out(
            lengths=[len(sample.input_ids) for sample in samples],
            places=[self._processing.image_places(sample.input_ids) for sample in samples],
            images=images,
            table_lengths=[len(table.tokens) for table in encoded],
            newlines=self._options.newlines,
            kept=[self._options.positions == "kept" and sample.fits_unpruned for sample in samples],
            device=self._device,
            placed=self._placed(samples, images),
            bidirectional=self._adapter.bidirectional,
        )
        by_sample: list[list[Encoded]] = [[] for _ in samples]
        for image, table in zip(images, encoded, strict=True):
            by_sample[image.sample].append(table)
        visual = [_joined([table.tokens for table in own], text) for own in by_sample]
        stays, deepstack = layout.stays(mask), _deepstack(by_sample)
        groups = grouped(layout.lengths, 0 if alone else _POSITIONS_PER_PASS[self._batched])
        prompts = [layout.assemble(stays, visual=visual, text=text, rows=rows, deepstack=deepstack) for rows in groups]
        # Padding would go into a model's states. Some strategies keep fewer tokens than the budget allows.
        return [one.unpadded() for one in prompts] if self._adapter.states else prompts

    def _placed(self, samples: Sequence[Sample], images: Sequence[PromptImage]) -> list[tuple[np.ndarray, int]] | None:
        """Each prompt's positions, unpruned, and the one after, if the adapter tells them."""
        if not self._adapter.own_positions:
            return None
        shown: list[list[Geometry]] = [[] for _ in samples]
        for image in images:
            shown[image.sample].append(image.geometry)
        return [
            self._adapter.positions(
                self._processing.expanded(sample.input_ids, geometries), [image.crops for image in sample.images]
            )
            for sample, geometries in zip(samples, shown, strict=True)
        ]


def _grammar(adapter: Adapter, processing: Processing, options: EngineOptions) -> Grammar | None:
    if not options.has_grammar:
        return None
    return Grammar(processing, options, end_tokens(adapter.model.generation_config), adapter.vocabulary)


def _sampled(answer: Answer, said: dict[str, Any]) -> SampledAnswer:
    """One of a row's answers."""
    text = None if "problem" in said else said["answer"]
    return SampledAnswer(answer=text, mean_logprob=answer.mean_logprob, output_tokens=len(answer.ids))


def _deepstack(by_sample: Sequence[Sequence[Encoded]]) -> list[Tensor]:
    """[R, S, D]: for each sample what goes with its images' rows; any row where it has no image. Empty if the family,
    or the whole batch, has nothing of the kind.
    """
    tables = [[table.deepstack for table in own if table.deepstack is not None] for own in by_sample]
    some = next((table for own in tables for table in own), None)
    return [] if some is None else [_joined(own, some) if own else some[:1] for own in tables]


def _joined(tables: Sequence[Tensor], like: Tensor) -> Tensor:
    """[R, D]: the rows of a sample's images, [r, D] each, one image after the other; none where it has none."""
    if len(tables) == 1:
        return tables[0]  # no copy
    return torch.cat([like[:0], *tables])


def _labels(
    samples: Sequence[Sample],
    images: Sequence[PromptImage],
    selection: Selection,
    groups: Sequence[Prompts],
    said: Sequence[dict[str, Any]],
    common: dict[str, Any],
) -> list[Label]:
    """Copy the batch's results to the host and put each sample's label together."""
    mask = selection.mask.cpu().numpy()
    cues = (selection.by_text.to(torch.int8) + 2 * selection.by_saliency.to(torch.int8)).cpu().numpy()
    by_sample: list[list[_Kept]] = [[] for _ in samples]
    for image, row, row_cues in zip(images, mask, cues, strict=True):
        kept = np.flatnonzero(row).astype(np.int32)
        by_sample[image.sample].append((image.geometry, kept, row_cues[kept]))
    prompt_tokens = {row: n for group in groups for row, n in zip(group.rows, group.lengths.tolist(), strict=True)}
    padded = {row: group.embeds.shape[1] for group in groups for row in group.rows}
    return [
        Label(
            id=sample.id,
            **own,
            **_kept(by_sample[row]),
            prompt_tokens=prompt_tokens[row],
            padded_tokens=padded[row],
            batch_size=len(samples),
            **common,
        )
        for row, (sample, own) in enumerate(zip(samples, said, strict=True))
    ]


def _kept(images: Sequence[_Kept]) -> dict[str, Any]:
    """What a label says of the visual tokens of its sample's images."""
    counts = [geometry.visual_tokens for geometry, *_ in images]
    starts = np.cumsum([0, *counts], dtype=np.int32)
    places = [tokens + start for (_, tokens, _), start in zip(images, starts, strict=False)]
    cues = np.concatenate([np.empty(0, np.int8), *(cues for *_, cues in images)])
    return {
        "visual_tokens": sum(counts),
        "kept_tokens": len(cues),
        "kept_indices": np.concatenate([np.empty(0, np.int32), *places]),
        "kept_cues": cues,
        "from_text": int(np.count_nonzero(cues & 1)),
        "from_saliency": int(np.count_nonzero(cues & 2)),
        "grid": tuple(panel for geometry, *_ in images for panel in geometry.panels),
        "parts": tuple(
            Part(len(geometry.panels), count, len(kept))
            for (geometry, kept, _), count in zip(images, counts, strict=True)
        ),
    }


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    # torch would emulate bfloat16 on older GPUs, and says that it is supported.
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _AMPERE else torch.float16
