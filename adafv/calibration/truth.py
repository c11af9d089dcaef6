"""Input columns for the sample's rows: the right answers, and the strata. The job doesn't read these columns, so the
input is read once more in Ray tasks, without images, and only the sample's values come back.

Records are found as the job finds them: with the rows that `--where` leaves, and one for each of a row's questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id
from adafv.pipeline.planning.worklist import map_units
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.preview import PEEKED, TRIED
from adafv.pipeline.sources.questions import value_for
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import id_of, text_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from adafv.scoring.metrics import VQA_FEWEST, references_of

TASK_CPUS = 0.25
HELD = 4096  # rows to look up at once

Truth = dict[str, tuple[str, ...]]  # the right answers by id
T = TypeVar("T")


def check_column(job: JobOptions, option: str, column: str, storage: Storage) -> list[Record]:
    """Raise UsageError if there is no such column, before anything is labelled. Returns the first records: of the first
    file that isn't empty or unreadable."""
    columns = replace(_columns(job, column), where=None)
    for unit in _units(job, column, storage)[:TRIED]:
        found = [record for record in islice(_records(unit, columns, storage), PEEKED) if record.columns]
        if found and not any(column in record.columns for record in found):
            raise UsageError(f"{option} is {column!r}; {unit.uri} has no such column")
        if found:
            return found
    return []


def check_answers(job: JobOptions, column: str, metric: str, storage: Storage) -> None:
    """The same for the column with right answers, and if the metric needs more of them than the first rows have."""
    records = check_column(job, "--answer-column", column, storage)
    counts = [len(references_of(value_for(record, column))) for record in records]
    if metric == "vqa" and 0 < max(counts, default=0) < VQA_FEWEST:
        raise UsageError(
            f"--metric vqa needs {VQA_FEWEST} or more right answers to a question, and is made for ten; column "
            f"{column!r} has {max(counts)}: give another --metric, such as exact"
        )


def read_truth(job: JobOptions, column: str, sample: Ledger, storage: Storage, metric: str = "exact") -> Truth:
    """The right answers of the sample's rows, by id; only of rows that have as many as the metric needs."""
    fewest = VQA_FEWEST if metric == "vqa" else 1
    found = _read(job, column, sample, storage, lambda record: references_of(value_for(record, column)))
    return {id: references for id, references in found.items() if len(references) >= fewest}


def read_strata(job: JobOptions, column: str, sample: Ledger, storage: Storage) -> dict[str, str]:
    """The strata of the sample's rows, by id, if known. A row's questions have one, as in a job."""
    found = _read(job, column, sample, storage, lambda record: text_of(record.columns.get(column)))
    return {id: stratum for id, stratum in found.items() if stratum is not None}


def _read(
    job: JobOptions, column: str, sample: Ledger, storage: Storage, meaning: Callable[[Record], T]
) -> dict[str, T]:
    """What the column says of the sample's records, by id. For several rows with one id, the first counts, as in a
    job."""
    found: dict[str, T] = {}
    units, columns = _units(job, column, storage), _columns(job, column)
    for part in map_units(values_of, units, TASK_CPUS, columns, sample, storage, meaning):
        found = part | found
    return found


def values_of(
    unit: Unit, columns: Columns, sample: Ledger, storage: Storage, meaning: Callable[[Record], T]
) -> dict[str, T]:
    """The unit's part."""
    found: dict[str, T] = {}
    records = _records(unit, columns, storage)
    while some := list(islice(records, HELD)):
        named = [(id, record) for record in some if (id := id_of(record.columns.get(columns.id))) is not None]
        drawn = sample.contains(np.array([digest_id(id) for id, _ in named], DIGEST))
        for number in np.flatnonzero(drawn):
            id, record = named[number]
            found.setdefault(id, meaning(record))
    return found


def _columns(job: JobOptions, column: str) -> Columns:
    """The job's columns that decide which records there are, and this one. Readers read what a prompt names."""
    columns = Columns.of(job)
    named = (*columns.prompt_columns, column)
    return replace(columns, image="", prompt_columns=named, stratum=None, choices=None, carried=())


def _units(job: JobOptions, column: str, storage: Storage) -> list[Unit]:
    """The input's units; of a folder of images with the sidecar files that may hold the column."""
    found: list[Unit] = []
    for uri in job.input:
        units = open_source(uri, storage, Columns.of(job)).units
        if units and units[0].format == "images":
            with suppress(UsageError):  # nothing beside the images has it
                units = open_source(uri, storage, _columns(job, column)).units
        found += units
    return found


def _records(unit: Unit, columns: Columns, storage: Storage) -> Iterator[Record]:
    """The unit's records. Parquet is read by columns, without its images, and of a folder of images only what stands
    beside them."""
    return read_unit(unit, storage, columns, images=unit.format in ("parquet", "images"))
