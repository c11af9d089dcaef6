"""Input columns for the sample's rows: the right answers, and the strata. The job doesn't read these columns, so the
input is read once more in Ray tasks, without images, and only the sample's values come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id
from adafv.pipeline.planning.worklist import map_units
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.preview import PEEKED
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import id_of, text_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from adafv.scoring.metrics import references_of

TASK_CPUS = 0.25
HELD = 4096  # rows to look up at once

Truth = dict[str, tuple[str, ...]]  # the right answers by id
T = TypeVar("T")


def check_column(job: JobOptions, option: str, column: str, storage: Storage) -> None:
    """Raise UsageError if there is no such column, before anything is labelled."""
    unit = _units(job, storage)[0]
    records = islice(_records(unit, job.id_column, column, storage), PEEKED)
    if not any(column in record.columns for record in records):
        raise UsageError(f"{option} is {column!r}; {unit.uri} has no such column")


def read_truth(job: JobOptions, column: str, sample: Ledger, storage: Storage) -> Truth:
    """The right answers of the sample's rows, by id."""
    found = _read(job, column, sample, storage, references_of)
    return {id: references for id, references in found.items() if references}


def read_strata(job: JobOptions, column: str, sample: Ledger, storage: Storage) -> dict[str, str]:
    """The strata of the sample's rows, by id, if known."""
    found = _read(job, column, sample, storage, text_of)
    return {id: stratum for id, stratum in found.items() if stratum is not None}


def _read(job: JobOptions, column: str, sample: Ledger, storage: Storage, meaning: Callable[[Any], T]) -> dict[str, T]:
    """What the column's values mean, by id. For several rows with one id, the first counts, as in a job."""
    found: dict[str, T] = {}
    units = _units(job, storage)
    for part in map_units(values_of, units, TASK_CPUS, job.id_column, column, sample, storage, meaning):
        found = part | found
    return found


def values_of(
    unit: Unit, id_column: str, column: str, sample: Ledger, storage: Storage, meaning: Callable[[Any], T]
) -> dict[str, T]:
    """The unit's part."""
    found: dict[str, T] = {}
    records = _records(unit, id_column, column, storage)
    while some := list(islice(records, HELD)):
        named = [(id, record) for record in some if (id := id_of(record.columns.get(id_column))) is not None]
        drawn = sample.contains(np.array([digest_id(id) for id, _ in named], DIGEST))
        for number in np.flatnonzero(drawn):
            id, record = named[number]
            found.setdefault(id, meaning(record.columns.get(column)))
    return found


def _units(job: JobOptions, storage: Storage) -> list[Unit]:
    return [unit for uri in job.input for unit in open_source(uri, storage, Columns.of(job)).units]


def _records(unit: Unit, id_column: str, column: str, storage: Storage) -> Iterator[Record]:
    """The unit's records with these two columns. Parquet is read by columns, without its images."""
    columns = Columns(id=id_column, image="", question="", prompt="", prompt_columns=(column,))
    return read_unit(unit, storage, columns, images=unit.format == "parquet")
