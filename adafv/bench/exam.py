"""Several contenders answer the same questions: strategies and budgets, or variants of a rule.

Each question is prepared once, and each image encoded once, for all of them. What makes them comparable is kept here:
one model, the same batches, the same scores. A row of the results belongs to one question, a column to one contender;
the first contender prunes nothing, and the others' answers are compared with its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from adafv.bench.examples import Example, ExampleSource, Skipped
from adafv.bench.resizing import Resizer, interpolate, of_one_shape
from adafv.engine import Engine, EngineOptions, Label, Sample, load_model
from adafv.models import Adapter, Encoded, check_text_tower, load_processing, load_text_tower
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.sources import rows
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.model import resolve_model
from adafv.pipeline.workers.prepare import Preparation, Preparing
from adafv.pipeline.workers.samples import samples_of
from adafv.pruning import Strategy

LOG = logging.getLogger("adafv")
BATCHES = 4  # that are prepared together; the images of so many stay encoded
LOG_SECONDS = 10


@dataclass(frozen=True)
class Contender:
    """One way to prune.

    Attributes:
        strategy: a rule in place of the one that `options` name, for one that has no name.
        resized: whether it prunes nothing, and is shown smaller pictures instead.
    """

    name: str
    options: EngineOptions
    strategy: Strategy | None = None
    resized: bool = False


@dataclass(frozen=True)
class Setting:
    """What every contender has in common. The first of `contenders` must be one that prunes nothing.

    Attributes:
        job: what a job would be told that labels the same with the same model.
    """

    job: JobOptions
    contenders: tuple[Contender, ...]
    batch_size: int
    storage: Storage

    @classmethod
    def of(cls, job: JobOptions, contenders: Sequence[Contender], batch_size: int) -> Setting:
        """`batch_size` is for a job that leaves it open."""
        storage = Storage.from_environment(job.s3_endpoint)
        return cls(job, tuple(contenders), job.batch_size or batch_size, storage)

    @property
    def text_tower(self) -> str | None:
        """The text tower of those contenders that have one."""
        return next((one.options.text_tower for one in self.contenders if one.options.text_tower is not None), None)

    def check(self) -> None:
        """Raise UsageError if the model or the text tower can't be had, or don't fit each other."""
        wanted = f"--model {self.job.model}"
        try:
            path, settings = resolve_model(self.job.model, self.storage), self.job.engine.image_settings
            processing = load_processing(path, settings)
            if self.text_tower is not None:
                wanted = f"--text-tower {self.text_tower}"
                check_text_tower(resolve_model(self.text_tower, self.storage), processing)
        except (OSError, ValueError) as error:
            raise UsageError(f"{wanted} can't be loaded: {error}") from error


@dataclass(frozen=True, slots=True)
class Answered:
    """One question and what C contenders made of it, in their order.

    Attributes:
        points: [C], what the answers are worth.
        agrees: [C], 1 where the answer is that of the first contender.
        select_ms, kept_tokens: [C], this question's share of its batch's time to prune, and how many tokens it kept.
    """

    types: tuple[str, ...]
    cluster: str
    points: list[float]
    agrees: list[float]
    select_ms: list[float]
    kept_tokens: list[int]


class Results:
    """The answers to R questions by C contenders.

    Attributes:
        points, agrees, select_ms, kept_tokens: [R, C].
        clusters: of each question.
        skipped: how many rows could not be asked, by error, with the first one's message.
    """

    def __init__(self, answered: Sequence[Answered], skipped: Sequence[Skipped]) -> None:
        self.points, self.agrees, self.select_ms, self.kept_tokens = (
            np.array([getattr(one, name) for one in answered], dtype=np.float64)
            for name in ("points", "agrees", "select_ms", "kept_tokens")
        )
        self.clusters = [one.cluster for one in answered]
        self._types = [one.types for one in answered]
        counts, first = Counter(one.error for one in skipped), {one.error: one for one in reversed(skipped)}
        self.skipped = {error: (count, first[error]) for error, count in sorted(counts.items())}

    def types(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> list[str]:
        """The types of questions that there are, those named `before` or `after` first or last."""
        found = dict.fromkeys(type_ for types in self._types for type_ in types)
        middle = [type_ for type_ in found if type_ not in (*before, *after)]
        return [type_ for type_ in (*before, *middle, *after) if type_ in found]

    def of_type(self, type_: str) -> np.ndarray:
        """bool [R]"""
        return np.array([type_ in types for types in self._types])

    def skipped_lines(self) -> list[str]:
        """What to say of the rows that could not be asked."""
        return [
            f"skipped {count} rows: {error}, such as {one.row!r}: {one.message}"
            for error, (count, one) in self.skipped.items()
        ]


def hold(setting: Setting, examples: Iterable[Example | Skipped], count: int = 1) -> Results:
    """Ask every contender every question, in `count` processes, on which no answer depends.

    With several, each has one thread, and all examples are held in memory.

    Raises:
        UsageError: the model can't be loaded, or not one row could be asked.
    """
    setting.check()
    answered: list[Answered] = []
    skipped: list[Skipped] = []
    start = said = time.monotonic()
    for part in _examined(setting, chunks(examples, BATCHES * setting.batch_size), count):
        for one in part:
            answered.append(one) if isinstance(one, Answered) else skipped.append(one)
        if time.monotonic() > said + LOG_SECONDS:
            said = time.monotonic()
            LOG.info("%d questions asked, %d rows skipped, %.0f s", len(answered), len(skipped), said - start)
    results = Results(answered, skipped)
    if not answered:
        raise UsageError("\n".join(["no row could be asked", *results.skipped_lines()]))
    return results


def _examined(
    setting: Setting, parts: Iterable[Sequence[Example | Skipped]], count: int
) -> Iterator[list[Answered | Skipped]]:
    if count == 1:
        yield from map(Examiner(setting), parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _start, (setting,)) as pool:
        yield from pool.map(_examine, parts)


def processes(job: JobOptions, source: ExampleSource) -> int:
    """One for each core that this process may use; one in all where the model is on a GPU, or the data is large."""
    on_gpu = job.engine.device != "cpu" and torch.cuda.is_available()
    return len(os.sched_getaffinity(0)) if source.split and not on_gpu else 1


def chunks(examples: Iterable[Example | Skipped], size: int) -> Iterator[list[Example | Skipped]]:
    iterator = iter(examples)
    while chunk := list(islice(iterator, size)):
        yield chunk


class Examiner:
    """Asks the contenders some questions. It holds the model, which they share."""

    def __init__(self, setting: Setting) -> None:
        job, options = setting.job, setting.contenders[0].options
        adapter, processing = load_model(resolve_model(job.model, setting.storage), options)
        if setting.text_tower is not None:
            path = resolve_model(setting.text_tower, setting.storage)
            adapter.text_tower = load_text_tower(path, processing, adapter.model.device)
        rules = [one.strategy or one.options.rule for one in setting.contenders]
        self._memory = EncodeMemory(adapter, frozenset[str]().union(*(rule.needs for rule in rules)))
        self._batch_size = setting.batch_size
        self._resizers = [
            Resizer(processing, one.options, job.max_image_pixels) if one.resized else None
            for one in setting.contenders
        ]
        if any(self._resizers):
            interpolate(adapter)
        self._engines = [
            Engine(adapter, resizer.processing if resizer else processing, one.options, strategy=one.strategy)
            for one, resizer in zip(setting.contenders, self._resizers, strict=True)
        ]
        self._engines[0].try_out()
        self._preparing = Preparing(
            Preparation.of(job, model=job.model, engine=options, storage=setting.storage, handler=Preparing)
        )

    def __call__(self, chunk: Sequence[Example | Skipped]) -> list[Answered | Skipped]:
        results: list[Answered | Skipped] = [one for one in chunk if isinstance(one, Skipped)]
        examples, labels, unfit = self.labels([one for one in chunk if isinstance(one, Example)])
        judged = (_judged(example, given) for example, *given in zip(examples, *labels, strict=True))
        return [*results, *unfit, *chain.from_iterable(judged)]

    def labels(self, asked: list[Example]) -> tuple[list[Example], list[list[Label]], list[Skipped]]:
        """The examples that can be asked, each contender's labels of all of them, and the others."""
        examples, samples, unfit = self._prepared(asked)
        order = sorted(range(len(examples)), key=lambda i: examples[i].words)
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        labels: list[list[Label]] = []  # [C, R]
        for engine, resizer in zip(self._engines, self._resizers, strict=True):
            shown = [resizer(example.row) for example in examples] if resizer else samples
            parts = of_one_shape(shown, batches) if resizer else batches
            found = {i: label for batch in parts for i, label in
                     zip(batch, engine.label([shown[i] for i in batch]), strict=True)}  # fmt: skip
            labels.append([found[i] for i in range(len(examples))])
        self._memory.forget()
        return examples, labels, unfit

    def _prepared(self, examples: list[Example]) -> tuple[list[Example], list[Sample], list[Skipped]]:
        if not examples:
            return [], [], []
        table = self._preparing(rows.to_table(example.row for example in examples), lambda: None)
        errors, messages = table.column("error").to_pylist(), table.column("message").to_pylist()
        unfit = [
            Skipped(example.row.id or "", error, message)
            for example, error, message in zip(examples, errors, messages, strict=True)
            if error is not None
        ]
        fit = [example for example, error in zip(examples, errors, strict=True) if error is None]
        return fit, samples_of(table.filter(pc.is_null(table.column("error")))), unfit


def _judged(example: Example, labels: Sequence[Label]) -> Iterator[Answered]:
    """One for each way in which the example is scored."""
    for types, score in ((example.types, example.score), *(((type_,), score) for type_, score in example.more)):
        yield Answered(
            types=types,
            cluster=example.cluster,
            points=[score(label.answer) for label in labels],
            agrees=[float(label.answer == labels[0].answer) for label in labels],
            select_ms=[label.prune_ms for label in labels],
            kept_tokens=[label.kept_tokens for label in labels],
        )


class EncodeMemory:
    """What the adapter's `encode` made of the crops that it was given since it last forgot them.

    Args:
        also: what any of the contenders needs besides; all are given all of it, so that one pass serves them all.
    """

    def __init__(self, adapter: Adapter, also: Collection[str]) -> None:
        self._encode, self._also = adapter.encode, also
        self._seen: list[tuple[Tensor, Encoded]] = []
        adapter.encode = self.encode  # type: ignore[method-assign]

    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        for known, encoded in self._seen:
            if known.shape == crops.shape and torch.equal(known, crops):
                return encoded
        self._seen.append((crops, self._encode(crops, also=self._also)))
        return self._seen[-1][1]

    def forget(self) -> None:
        self._seen.clear()


_examiner: Examiner | None = None  # of this process, where it is one of several


def _start(setting: Setting) -> None:
    global _examiner
    torch.set_num_threads(1)
    _examiner = Examiner(setting)


def _examine(chunk: Sequence[Example | Skipped]) -> list[Answered | Skipped]:
    assert _examiner is not None
    return _examiner(chunk)
