"""What is asked: a world's scenes, or a user's labelled data. Both as rows of the job, with what is right.

Labelled data is read by the job's own readers and fetched by its own rules, so whatever the job can label can be
measured. A row that is no good is skipped with its reason and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Protocol

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.options import JobOptions
from adafv.pipeline.redaction import redact
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.questions import value_for
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import Row, RowImage, row_of
from adafv.pipeline.store.storage import Storage
from adafv.scoring.metrics import METRICS, VQA_FEWEST, references_of
from adafv.worlds.captions import hallucinated, recalled
from adafv.worlds.drawn.score import CAPTION, Truth
from adafv.worlds.registry import WORLDS, World

ALL = "all"  # the question type that every question has, except captions
# Question types of captions: the shares of what is named that isn't there, and of what is there that is named.
HALLUCINATED, RECALLED = "hallucinated", "recalled"
FETCHED = 32  # rows whose images are fetched at once
AnswerScore = Callable[[str], float]  # what an answer is worth, from 0 to 1


@dataclass(frozen=True, slots=True)
class Example:
    """One question whose answer is known.

    Attributes:
        row: as the fetching stage leaves it, with the image's bytes.
        score: what an answer to it is worth.
        types: the question types that it counts for.
        cluster: equal for rows that stand and fall together: those of one scene, or on one image.
        more: other question types that it counts for, each with what an answer is worth there.
        words: in the longest right answer; questions of about the same share a batch.
    """

    row: Row
    score: AnswerScore
    types: tuple[str, ...]
    cluster: str
    words: int
    more: tuple[tuple[str, AnswerScore], ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be asked: which, an error of the job's list or one of this module's, and what was wrong."""

    row: str
    error: str
    message: str


class ExampleSource(Protocol):
    """Where examples come from.

    Attributes:
        title: what they are, in a line.
        batch_size: what to ask at once, unless the user says.
        split: whether they may all be held in memory, so that several processes can share them.
    """

    @property
    def title(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def split(self) -> bool: ...

    def examples(self) -> Iterator[Example | Skipped]: ...

    def measure(self, type_: str) -> str:
        """What the accuracy on questions of a type is."""
        ...


@dataclass(frozen=True)
class Scenes:
    """The questions on `scenes` held-out scenes of a world, from the `seed`-th on.

    Captions are scored by the F1 of what they name, so they are no part of `all`, which is a share of right answers.
    """

    scenes: int
    seed: int
    of: World = WORLDS["testbed"]

    split = True

    def __post_init__(self) -> None:
        for name, least in (("scenes", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def title(self) -> str:
        return f"{self.scenes} held-out scenes of {self.of.name} from {self.seed} on"

    @property
    def batch_size(self) -> int:
        return self.of.batch_size

    def measure(self, type_: str) -> str:
        return _OF_CAPTIONS.get(type_, "answers right")

    def examples(self) -> Iterator[Example]:
        for values in self.of.rows(self.scenes, self.seed):
            answer, type_, size = str(values["answer"]), str(values["type"]), str(values["size"])
            yield Example(
                scene_row(values),
                partial(self.of.points, truth=Truth(answer, type_, size)),
                (CAPTION,) if type_ == CAPTION else (ALL, size, type_),
                str(values["scene"]),
                len(answer.split()),
                self._of_caption(answer) if type_ == CAPTION else (),
            )

    def _of_caption(self, answer: str) -> tuple[tuple[str, AnswerScore], ...]:
        measures = {HALLUCINATED: hallucinated, RECALLED: recalled}
        return tuple(
            (type_, partial(_of_things, share=share, named=self.of.named, there=self.of.named(answer)))
            for type_, share in measures.items()
        )


_OF_CAPTIONS = {
    CAPTION: "F1 of what is named",
    HALLUCINATED: "things named that aren't there",
    RECALLED: "things there that are named",
}


def _of_things(
    answer: str,
    share: Callable[[Sequence[str], Sequence[str]], float],
    named: Callable[[str], list[str]],
    there: Sequence[str],
) -> float:
    return share(named(answer), there)


def scene_row(values: Mapping[str, object]) -> Row:
    """A row of a world's data set (`drawn.dataset.SCHEMA`), as the fetching stage leaves it."""
    image, question = values["image"], str(values["question"])
    assert isinstance(image, dict)
    shown = RowImage(image["path"], data=image["bytes"])
    return Row(str(values["id"]), shown.name, (shown,), question=question, prompt=question)


@dataclass(frozen=True)
class LabelledData:
    """A user's data set with its answers.

    Attributes:
        job: where it lies and what its columns are called, as for a job that labels it.
        answer_column: a text, a list of texts, or VQAv2's list of {"answer": text}.
        type_column: what to tell types of questions by, if anything.
        metric: a key of `METRICS`.
    """

    job: JobOptions
    answer_column: str
    type_column: str | None
    metric: str

    batch_size = 16
    split = False

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"--metric is {self.metric!r}; it must be one of {', '.join(METRICS)}")

    def measure(self, type_: str) -> str:
        return self.metric

    @property
    def title(self) -> str:
        return redact(", ".join(self.job.input))

    def examples(self) -> Iterator[Example | Skipped]:
        """The rows, in order.

        Raises:
            UsageError: the input can't be read, or lacks a column.
        """
        storage, columns = Storage.from_environment(self.job.s3_endpoint), Columns.of(self.job)
        fetcher = Fetcher(storage, self.job.max_image_bytes, self.job.allow_http)
        records = islice(self._records(storage, columns), self.job.limit)
        while some := list(islice(records, FETCHED)):
            rows = fetcher.fetch_rows(row_of(record, columns) for record in some)
            for record, row in zip(some, rows, strict=True):
                yield self._example(record, row)

    def _records(self, storage: Storage, columns: Columns) -> Iterator[Record]:
        more = (self.answer_column, *((self.type_column,) if self.type_column else ()))
        wide = replace(columns, prompt_columns=(*columns.prompt_columns, *more))  # readers read what a prompt names
        sources = [open_source(uri, storage, columns) for uri in self.job.input]
        for source in sources:
            for unit in source.units:
                yield from read_unit(unit, storage, wide)

    def _example(self, record: Record, row: Row) -> Example | Skipped:
        name = row.id or record.place
        if row.reject is not None:
            return Skipped(name, row.reject.error, row.reject.message)
        references = references_of(value_for(record, self.answer_column))
        if not references:
            wanted = "a text, a list of texts, or a list of {'answer': text}"
            return Skipped(name, "answer_missing", f"column {self.answer_column!r} must be {wanted}, and not empty")
        if self.metric == "vqa" and len(references) < VQA_FEWEST:
            few = f"{len(references)} answers; the metric vqa needs {VQA_FEWEST} or more, and is made for ten"
            return Skipped(name, "answers_too_few", few)
        type_ = record.columns.get(self.type_column) if self.type_column else None
        return Example(
            row,
            partial(_measured, metric=self.metric, references=references),
            (ALL, *((str(type_),) if type_ is not None else ())),
            _cluster(row),
            max(len(reference.split()) for reference in references),
        )


def _cluster(row: Row) -> str:
    """Equal for rows on the same images. Rows without one share nothing; `image` is then the place in the input."""
    if not row.images:
        return row.image
    return hashlib.blake2b(b"".join(image.data or b"" for image in row.images), digest_size=16).hexdigest()


def _measured(answer: str, metric: str, references: Sequence[str]) -> float:
    return METRICS[metric](answer, references)
