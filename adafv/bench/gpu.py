"""Everything that is worth measuring on a GPU, in one command, for those who have one for half an hour.

    labels      small models' labels beside the CPU's: how many selections and answers are the same, by strategy
    repeats     the same rows twice, and in batches of other sizes: how many labels differ
    sizes       samples/s and memory of the preset's shape, by batch size
    halving     a batch for which the memory doesn't suffice
    launches    kernels of a batch, and the share of its time in which the device works
    speed       what `adafv bench speed` measures, with vLLM and 8-bit weights where they are installed

Each part is a process of its own: one that fails says why in its place, and the others go on. None begins when the
minutes are spent. With `--device cpu` everything runs but `halving`: to try the command, or to see what bfloat16
changes.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from adafv.bench import speed
from adafv.bench.ceilings import synchronise
from adafv.bench.memory import PeakMemory
from adafv.bench.process import apart
from adafv.bench.rivals import Ours, engine_options, timed
from adafv.bench.shapes import PRESETS, Shape, Subject, ask
from adafv.embedded import EMBEDDED, OF_WORLDS, own_model
from adafv.engine import Engine, EngineOptions, Label, Preparer, Sample
from adafv.pipeline.errors import UsageError
from adafv.pruning import STRATEGIES
from adafv.worlds.registry import WORLDS

logger = logging.getLogger(__name__)

MODELS = ("testbed", "textured-qwen")  # a family that counts positions one by one, and one with M-RoPE
SMALL = (*EMBEDDED, *OF_WORLDS)
SIZES = (1, 8, 32, 64, 128)
TOKENS = 32  # of the preset's answers
WARM_UP = 1  # seed of the pictures to warm up with: others than are timed, since the engine knows its last one again


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """What is measured: `questions` to each of the `models` about its world, by some strategies, and a `shape`."""

    device: str
    dtype: str
    shape: Shape
    preset: str
    questions: int
    models: tuple[str, ...] = MODELS
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    sizes: tuple[int, ...] = SIZES
    max_new_tokens: int = TOKENS

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)


def run(settings: GpuSettings, parts: Sequence[str], minutes: float) -> tuple[dict[str, Any], str]:
    """The figures of each part, and a text of them."""
    found: dict[str, Any] = {}
    until = time.monotonic() + 60 * minutes
    for name in parts:
        start = time.monotonic()
        if start > until:
            found[name] = {"error": "the minutes were spent"}
            continue
        try:
            found[name] = apart(PARTS[name], settings)
        except Exception as error:  # of whatever kind: the figures of the other parts are worth having
            logger.exception("%s failed", name)
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        logger.info("%s took %.0f s", name, time.monotonic() - start)
    return found, "\n".join(f"{name}: {line}" for name, figures in found.items() for line in _lines(figures))


def _lines(figures: Any) -> list[str]:
    rows = figures if isinstance(figures, list) else [figures]
    return ["  ".join(f"{name} {_shown(value)}" for name, value in row.items()) for row in rows]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def labels(settings: GpuSettings) -> list[dict[str, Any]]:
    """Of each model and strategy the shares of questions whose selection and answer are those of a CPU in
    float32, on the device in float32 and in the dtype that is measured.
    """
    rows = []
    for model in settings.models:
        for strategy in settings.strategies:
            options = EngineOptions(strategy=strategy, keep=0.1, max_new_tokens=8, device="cpu", dtype="float32")
            expected = _labels(model, options, settings.questions)
            for dtype in dict.fromkeys(("float32", settings.dtype)):
                there = replace(options, device=settings.device, dtype=dtype)
                found = _labels(model, there, settings.questions)
                rows.append({"model": model, "strategy": strategy, "dtype": dtype} | _alike(expected, found))
    return rows


def repeats(settings: GpuSettings) -> list[dict[str, Any]]:
    """Likewise of the default strategy: once more, and in batches of other sizes than 32."""
    rows = []
    for model in settings.models:
        options = EngineOptions(keep=0.1, max_new_tokens=8, device=settings.device, dtype=settings.dtype)
        expected = _labels(model, options, settings.questions)
        for size in (32, 1, 8):
            found = _labels(model, options, settings.questions, size)
            bits = sum(one.mean_logprob == other.mean_logprob for one, other in zip(expected, found, strict=True))
            rows.append({"model": model, "batch_size": size, "same_bits": bits / len(found), **_alike(expected, found)})
    return rows


def sizes(settings: GpuSettings) -> list[dict[str, Any]]:
    """Samples/s, and the most memory beside the weights, of a batch of each size. One that doesn't fit is the last."""
    rows: list[dict[str, Any]] = []
    subject = _subject(settings)
    for size in settings.sizes:
        rival, batch = _rival(settings, subject, size)
        started = rival.start()
        started.answer(_batch(rival, settings, size, WARM_UP))
        memory = PeakMemory(settings.torch_device)
        seconds, answered = timed(started, batch, settings.torch_device)
        rows.append(
            {
                "batch_size": size,
                "at_once": answered.at_once,
                "samples_per_s": size / seconds,
                "bytes_per_sample": memory.growth() / answered.at_once,
            }
        )
        if answered.at_once < size:
            break
    return rows


def halving(settings: GpuSettings) -> dict[str, Any]:
    """A batch in a quarter of the memory that it takes: whether the answers are those that it has where it fits."""
    if settings.device != "cuda":
        raise ValueError("only a GPU's memory can be made short")
    size = max(settings.sizes)
    rival, batch = _rival(settings, _subject(settings), size)
    whole = (started := rival.start()).answer(batch)
    memory = PeakMemory(settings.torch_device)
    started.answer(batch)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_allocated() + memory.growth() / 4
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    tight = rival.start().answer(batch)
    same = sum(one == other for one, other in zip(whole.answers, tight.answers, strict=True))
    return {"batch_size": size, "at_once": tight.at_once, "same_answers": same / size}


def launches(settings: GpuSettings) -> dict[str, Any]:
    """Of one batch: kernels a sample and a token, its time, and how much of that the device works."""
    rival, batch = _rival(settings, _subject(settings), min(32, max(settings.sizes)))
    other = _batch(rival, settings, len(batch), WARM_UP)
    started = rival.start()
    started.answer(other)
    plain, _ = timed(started, batch, settings.torch_device)
    started.answer(other)
    cuda = settings.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        started.answer(batch)
        synchronise(settings.torch_device)
    events = [event for event in seen.events() if not cuda or event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.self_device_time_total if cuda else event.self_cpu_time_total for event in events) / 1e6
    return {
        "batch_size": len(batch),
        "seconds": plain,
        "launches": len(events),
        "launches_per_token": len(events) / settings.max_new_tokens,
        "busy_share": busy / plain,
    }


def speeds(settings: GpuSettings) -> list[dict[str, Any]]:
    """The rows of `adafv bench speed`, in short."""
    given: dict[str, Any] = dict.fromkeys(("samples", "batch_size", "threads"))
    given |= {"questions": 1, "mixed": False, "rounds": 1, "again": 0.3}
    given |= {"preset": settings.preset, "rows": (), "strategy": EngineOptions().strategy}
    given |= {"device": settings.device, "dtype": settings.dtype, "max_new_tokens": settings.max_new_tokens}
    figures, _ = speed.run(speed.Settings.of(**given), settings.shape)
    shown = ("name", "samples_per_s", "over_stock", "limit_share", "peak_bytes")
    return [{name: row[name] for name in shown} for row in figures["rows"]]


PARTS: dict[str, Callable[[GpuSettings], Any]] = {
    "labels": labels,
    "repeats": repeats,
    "sizes": sizes,
    "halving": halving,
    "launches": launches,
    "speed": speeds,
}


def _labels(model: str, options: EngineOptions, count: int, batch_size: int = 32) -> list[Label]:
    """What the model answers to the first questions of its world."""
    folder = str(own_model(model))
    preparer, engine = Preparer.load(folder, options), Engine.load(folder, options)
    samples = [_sample(preparer, values) for values in islice(WORLDS[model].rows(count, 0), count)]
    starts = range(0, count, batch_size)
    return [label for start in starts for label in engine.label(samples[start : start + batch_size])]


def _sample(preparer: Preparer, values: dict[str, Any]) -> Sample:
    image = Image.open(io.BytesIO(values["image"]["bytes"])).convert("RGB")
    return preparer.prepare(str(values["id"]), image, str(values["question"]))


def _alike(expected: Sequence[Label], found: Sequence[Label]) -> dict[str, Any]:
    pairs = list(zip(expected, found, strict=True))
    selections = sum(one.kept_indices.tolist() == other.kept_indices.tolist() for one, other in pairs)
    answers = sum(one.answer == other.answer for one, other in pairs)
    return {"n": len(pairs), "same_selection": selections / len(pairs), "same_answer": answers / len(pairs)}


def _subject(settings: GpuSettings) -> Subject:
    return Subject.build(settings.shape, settings.torch_device, getattr(torch, settings.dtype))


def _rival(settings: GpuSettings, subject: Subject, size: int) -> tuple[Ours, list[Sample]]:
    """The engine at 5 % kept, and a batch for it."""
    rival = Ours(subject, engine_options(settings, EngineOptions().strategy, speed.LEAST), size)
    return rival, _batch(rival, settings, size)


def _batch(rival: Ours, settings: GpuSettings, size: int, seed: int = 0) -> list[Sample]:
    return rival.prepare(ask(settings.shape, size, 1, mixed=False, seed=seed))


def of(
    *,
    device: str | None,
    preset: str,
    questions: int,
    dtype: str | None = None,
    models: Sequence[str] = MODELS,
    strategies: Sequence[str] = tuple(STRATEGIES),
) -> GpuSettings:
    """On the device that is given, or a GPU, in a dtype that suits it. Raises UsageError where there is no GPU, or no
    such model.
    """
    found = speed.device_of(device or "cuda")
    if unknown := [name for name in models if name not in SMALL]:
        raise UsageError(f"--models names {', '.join(unknown)}; there are {', '.join(SMALL)}")
    return GpuSettings(
        device=found,
        dtype=dtype or speed.SUITABLE[found]["dtype"],
        shape=PRESETS[preset],
        preset=preset,
        questions=questions,
        models=tuple(models),
        strategies=tuple(strategies),
    )
