"""The engine: one batch of samples in, one label each out.

Each distinct image of a batch is encoded once. Its visual tokens are then pruned once per question, the kept ones take
the image's place in the prompt, and the language model answers all prompts together.

Batch invariance. Which tokens are kept must not depend on a sample's neighbours. On a CPU, matrix products of other
shapes round differently in the last bit, and a bit can turn a near-tie. So on a CPU each image is encoded by itself and
each question's cues are computed by themselves: it costs next to nothing there, and makes the same bits come out of
every batch. On an accelerator both are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adafv.engine.encoder import Encoder
from adafv.engine.faults import Fitting
from adafv.engine.generation import Answer, Generator
from adafv.engine.options import EngineOptions
from adafv.engine.prepare import Preparer
from adafv.engine.pruner import Pruner
from adafv.engine.sample import Label, Sample, seed_of
from adafv.engine.sequence import Prompts, grouped, lay_out
from adafv.engine.stopwatch import Stopwatch
from adafv.engine.vllm import VllmGenerator
from adafv.hardware import cpu_name
from adafv.models import Adapter, Encoded, Geometry, Processing, load_adapter, load_processing, load_text_tower
from adafv.pruning import Selection, Strategy

# Positions that pass through the language model together when prompts are read, on a CPU and on an accelerator: enough
# to fill it, few enough to bound its activations.
_POSITIONS_PER_PASS = (4096, 32768)

_STAGES = ("encode", "prune", "prefill", "decode")


def load_model(model: str, options: EngineOptions) -> tuple[Adapter, Processing]:
    """Load `model`, a folder or hub id, onto the device that `options` name, in their dtype; with their text tower, and
    without the language model where that is another back end's.

    Raises:
        ValueError: the model is of no supported family, its configuration can't be pruned, or the text tower is no
            CLIP model or doesn't fit.
        OSError: there is no such model, or a file of it is missing.
    """
    device = torch.device(_device(options.device))
    processing = load_processing(model)
    ours = options.backend == "transformers"
    adapter = load_adapter(model, processing, device, _dtype(options.dtype, device), language_model=ours)
    if options.text_tower is not None:
        adapter.text_tower = load_text_tower(options.text_tower, processing, device)
    return adapter, processing


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
        strategy: Strategy | None = None,
        generator: Generator | VllmGenerator | None = None,
    ) -> None:
        self._adapter, self._processing, self._options = adapter, processing, options
        self._device = adapter.model.device
        self._strategy = strategy or options.rule
        self._batched = self._device.type != "cpu"
        self._encoder = Encoder(adapter, self._strategy.needs, together=self._batched)
        self._pruner = Pruner(adapter, processing, self._strategy, options.text_scope, together=self._batched)
        if generator is None and options.backend != "transformers":
            raise ValueError(f"backend {options.backend!r} needs a generator; `Engine.load` makes one")
        self._generator = generator or Generator(adapter, options)
        self._fitting = Fitting()

    @classmethod
    def load(cls, model: str, options: EngineOptions) -> Engine:
        """Load `model`, a folder or hub id, onto the device that `options` name. Errors as for `load_model`, and a
        ValueError where vLLM is asked for and can't be had (see `VllmGenerator`).
        """
        adapter, processing = load_model(model, options)
        generator = VllmGenerator(model, adapter, options) if options.backend == "vllm" else None
        return cls(adapter, processing, options, generator=generator)

    @property
    def device_name(self) -> str:
        """What the engine runs on, for the record: a GPU's or a processor's name."""
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else cpu_name()

    @property
    def dtype_name(self) -> str:
        """The dtype of the weights, without torch's prefix."""
        return str(self._adapter.model.dtype).removeprefix("torch.")

    def try_out(self) -> None:
        """Answer a grey picture with one token: what fails here fails whatever it is given. It also warms up."""
        options = replace(self._options, max_new_tokens=1)
        sample = Preparer(self._processing, options).prepare("", Image.new("RGB", (64, 64), "grey"), "What is this?")
        generator = self._generator.with_options(options)
        Engine(self._adapter, self._processing, options, self._strategy, generator).label([sample])

    def label(self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None) -> list[Label]:
        """Answer the samples as one batch, or in parts where that doesn't fit the device; in the samples' order.

        Args:
            on_progress: called whenever an image is encoded or a token is generated, so that a caller can tell a batch
                that takes long from one that hangs.

        Raises:
            torch.OutOfMemoryError: there is a sample that doesn't fit by itself. Where the device is a CPU, the errors
                that `is_out_of_memory` knows.
        """
        return self._fitting.label(samples, lambda part: self._label(part, on_progress))

    @torch.inference_mode()
    def _label(self, samples: Sequence[Sample], on_progress: Callable[[], None]) -> list[Label]:
        """Answer the samples as one batch."""
        watch = Stopwatch(self._device)
        geometries = [self._processing.geometry(sample.image_size) for sample in samples]
        images = self._encoder(samples, on_progress)
        watch.lap("encode")
        budgets = [self._options.budget(geometry.visual_tokens) for geometry in geometries]
        selection, images = self._pruner(samples, geometries, budgets, images)
        groups = self._assemble(samples, geometries, budgets, images, selection.mask)
        watch.lap("prune")
        answers = self._generator(
            groups,
            [seed_of(str(self._options.seed), sample.id) for sample in samples],
            on_prefilled=lambda: watch.lap("prefill"),
            on_step=on_progress,
        )
        watch.lap("decode")
        times = watch.milliseconds()
        shares = {f"{stage}_ms": times[stage] / len(samples) for stage in _STAGES}
        return _labels(samples, geometries, selection.check(), groups, answers, self._processing, shares)

    def _assemble(
        self,
        samples: Sequence[Sample],
        geometries: Sequence[Geometry],
        budgets: Sequence[int],
        images: Sequence[Encoded],
        mask: Tensor,
    ) -> list[Prompts]:
        """What the language model reads."""
        lengths = [len(sample.input_ids) for sample in samples]
        ids = torch.from_numpy(np.concatenate([sample.input_ids for sample in samples])).to(self._device)
        text = self._adapter.embed(ids)
        if self._adapter.newline is not None:
            text = torch.cat([text, self._adapter.newline[None]])
        layout = lay_out(
            samples,
            geometries,
            budgets,
            image_places=[self._processing.image_place(sample.input_ids) for sample in samples],
            text_rows=np.cumsum([0, *lengths[:-1]]).tolist(),
            newline_row=len(text) - 1,
            newlines=self._options.newlines,
            device=self._device,
        )
        tokens = [image.tokens for image in images]
        most = _POSITIONS_PER_PASS[self._batched]
        return [layout.assemble(mask, tokens, text, rows) for rows in grouped(layout.lengths, most)]


def _labels(
    samples: Sequence[Sample],
    geometries: Sequence[Geometry],
    selection: Selection,
    groups: Sequence[Prompts],
    answers: Sequence[Answer],
    processing: Processing,
    shares: dict[str, float],
) -> list[Label]:
    """Read the batch back and put each sample's label together."""
    mask = selection.mask.cpu().numpy()
    cues = (selection.by_text.to(torch.int8) + 2 * selection.by_saliency.to(torch.int8)).cpu().numpy()
    from_text, from_saliency = selection.from_text.tolist(), selection.from_saliency.tolist()
    prompt_tokens = {row: n for group in groups for row, n in zip(group.rows, group.lengths.tolist(), strict=True)}
    padded = {row: group.embeds.shape[1] for group in groups for row in group.rows}
    labels = []
    for row, (sample, geometry, answer) in enumerate(zip(samples, geometries, answers, strict=True)):
        kept = np.flatnonzero(mask[row]).astype(np.int32)
        labels.append(
            Label(
                id=sample.id,
                answer=processing.decode(answer.ids),
                finish_reason=answer.finish_reason,
                mean_logprob=answer.mean_logprob,
                visual_tokens=geometry.visual_tokens,
                kept_tokens=len(kept),
                kept_indices=kept,
                kept_cues=cues[row][kept],
                from_text=from_text[row],
                from_saliency=from_saliency[row],
                grid=geometry.panels,
                prompt_tokens=prompt_tokens[row],
                padded_tokens=padded[row],
                output_tokens=len(answer.ids),
                batch_size=len(samples),
                **shares,
            )
        )
    return labels


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)
