"""The engine: one batch of samples in, one label each out.

Each distinct image of a batch is encoded once. Its visual tokens are then pruned once per question, the kept ones take
the image's place in the prompt, and the language model answers all prompts together.

Batch invariance. Which tokens are kept must not depend on a sample's neighbours. On a CPU, matrix products of other
shapes round differently in the last bit, and a bit can turn a near-tie. So on a CPU each image is encoded by itself and
each question's cues are computed by themselves: it costs next to nothing there, and makes the same bits come out of
every batch. On a GPU both are batched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.engine.faults import Fitting
from adafv.engine.generation import Answer, Generator
from adafv.engine.options import EngineOptions
from adafv.engine.prepare import Preparer
from adafv.engine.sample import Label, Sample
from adafv.engine.sequence import Prompts, grouped, lay_out
from adafv.engine.stopwatch import Stopwatch
from adafv.engine.vllm import VllmGenerator
from adafv.hardware import cpu_name
from adafv.models import Adapter, Encoded, Geometry, Processing, Reading, load_adapter, load_processing, load_text_tower
from adafv.pruning import Cues, Merged, Selection, Strategy, text_similarity

# Crops that pass through a GPU's vision tower together: enough to fill it, few enough to bound its activations.
_CROPS_PER_PASS = 64

# Positions that pass through the language model together when prompts are read, on a CPU and on an accelerator:
# likewise.
_POSITIONS_PER_PASS = (4096, 32768)

# Cues that only the text tower can give.
_READ = frozenset({"clip_text", "clip_words"})

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
        if self._strategy.needs & _READ and adapter.text_tower is None:
            raise ValueError(f"strategy {self._strategy.name!r} needs a text tower here, and the adapter has none")
        self._batched = self._device.type != "cpu"
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
        """What the engine runs on, for the record."""
        if self._device.type == "cuda":
            return f"cuda: {torch.cuda.get_device_name(self._device)}"
        return f"{self._device.type}: {cpu_name()}"

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
        images = self._encode(samples, on_progress)
        watch.lap("encode")
        budgets = [self._options.budget(geometry.visual_tokens) for geometry in geometries]
        selection, images = self._select(samples, geometries, budgets, images, self._read(samples))
        groups = self._assemble(samples, geometries, budgets, images, selection.mask)
        watch.lap("prune")
        answers = self._generator(
            groups,
            [_seed(str(self._options.seed), sample.id) for sample in samples],
            on_prefilled=lambda: watch.lap("prefill"),
            on_step=on_progress,
        )
        watch.lap("decode")
        times = watch.milliseconds()
        shares = {f"{stage}_ms": times[stage] / len(samples) for stage in _STAGES}
        return _labels(samples, geometries, selection.check(), groups, answers, self._processing, shares)

    def _encode(self, samples: Sequence[Sample], on_progress: Callable[[], None]) -> list[Encoded]:
        """Each sample's image, [C · P, …]; one object for samples that show the same, which is encoded once."""
        distinct = {sample.image_key: sample for sample in samples}
        encoded: dict[str, Encoded] = {}
        for group in self._passes(list(distinct.values())):
            crops = torch.from_numpy(np.concatenate([sample.crops for sample in group]))
            out = self._adapter.encode(crops.to(self._device, non_blocking=True), also=self._strategy.needs)
            ends = np.cumsum([len(sample.crops) for sample in group]).tolist()
            for sample, end in zip(group, ends, strict=True):
                encoded[sample.image_key] = out.patches(slice(end - len(sample.crops), end))
            on_progress()
        return [encoded[sample.image_key] for sample in samples]

    def _read(self, samples: Sequence[Sample]) -> list[Reading]:
        """What the text tower makes of each sample's text, which is read once where several ask the same; nothing if
        the strategy doesn't need it.
        """
        tower = self._adapter.text_tower
        if tower is None or not self._strategy.needs & _READ:
            return []
        texts = [self._processing.decode(self._scope(sample).tolist()) for sample in samples]
        distinct = list(dict.fromkeys(texts))
        passes = [distinct] if self._batched else [[text] for text in distinct]
        readings = dict(zip(distinct, (reading for group in passes for reading in tower.read(group)), strict=True))
        return [readings[text] for text in texts]

    def _passes(self, samples: list[Sample]) -> Iterator[list[Sample]]:
        """Split images into passes of the vision tower."""
        most = _CROPS_PER_PASS if self._batched else 1
        group: list[Sample] = []
        for sample in samples:
            if group and sum(len(other.crops) for other in group) + len(sample.crops) > most:
                yield group
                group = []
            group.append(sample)
        yield group

    def _select(
        self,
        samples: Sequence[Sample],
        geometries: Sequence[Geometry],
        budgets: Sequence[int],
        images: Sequence[Encoded],
        readings: Sequence[Reading],
    ) -> tuple[Selection, list[Encoded]]:
        """Prune: all samples at once on an accelerator, one by one on a CPU. With the images as the language model is
        to see them: where the strategy merged tokens, a sample has an image of its own.
        """
        step = len(samples) if self._batched else 1
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
            from_text=torch.cat([part.from_text for part in parts]),
            from_saliency=torch.cat([part.from_saliency for part in parts]),
            flaws=torch.cat([part.flaws for part in parts]),
        )
        return together, seen

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
            cues["seeds"] = torch.tensor([_seed(sample.id) for sample in samples], device=self._device)
        return Cues(**cues)

    def _scope(self, sample: Sample) -> np.ndarray:
        """int32 [T]: the tokens that the text cue sees."""
        if self._options.text_scope == "question":
            start, end = sample.question_span
            return sample.input_ids[start:end]
        return sample.input_ids[self._placeholder(sample) + 1 :]

    def _placeholder(self, sample: Sample) -> int:
        """Where in the prompt the image's placeholder stands."""
        return int(np.flatnonzero(sample.input_ids == self._processing.config.image_token_id)[0])

    def _assemble(
        self,
        samples: Sequence[Sample],
        geometries: Sequence[Geometry],
        budgets: Sequence[int],
        images: Sequence[Encoded],
        mask: Tensor,
    ) -> list[Prompts]:
        """What the language model reads. The table of embeddings: all images, all prompts, the newline."""
        starts: dict[Encoded, int] = {}
        rows = 0
        for image in dict.fromkeys(images):  # by identity
            starts[image], rows = rows, rows + len(image.tokens)
        lengths = [len(sample.input_ids) for sample in samples]
        text_rows = (rows + np.cumsum([0, *lengths[:-1]])).tolist()
        ids = torch.from_numpy(np.concatenate([sample.input_ids for sample in samples])).to(self._device)
        parts = [image.tokens for image in starts] + [self._adapter.embed(ids)]
        if self._adapter.newline is not None:
            parts.append(self._adapter.newline[None])
        table = torch.cat(parts)
        layout = lay_out(
            samples,
            geometries,
            budgets,
            image_places=[self._placeholder(sample) for sample in samples],
            image_rows=[starts[image] for image in images],
            text_rows=text_rows,
            newline_row=len(table) - 1,
            newlines=self._options.newlines,
            device=self._device,
        )
        most = _POSITIONS_PER_PASS[self._batched]
        return [layout.assemble(mask, table, rows) for rows in grouped(layout.lengths, most)]


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


def _padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """[B, longest, ...], rows filled up at the end."""
    return pad_sequence(list(rows), batch_first=True, padding_value=value)


def _seed(*parts: str) -> int:
    """A signed 64-bit integer, the same for the same strings on every machine."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little", signed=True)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)
