"""What columns of the input say of a sample's rows: the right answers, and of which kind a row is (its stratum).

The job itself has no use for these columns, so the input is read once more, by Ray's tasks as when a run is planned:
without images, and only what the sample's rows have comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id
from adafv.pipeline.planning.worklist import in_order
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read
from adafv.pipeline.sources.preview import PEEKED
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import id_of, stratum_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from adafv.scoring.metrics import references_of

TASK_CPUS = 0.25
HELD = 4096  # rows that are looked up in the sample at once

Truth = dict[str, tuple[str, ...]]  # the right answers by id
T = TypeVar("T")


def check_column(job: JobOptions, option: str, column: str, storage: Storage) -> None:
    """Raise UsageError if there is no such column, before anything is labelled rather than after."""
    unit = _units(job, storage)[0]
    records = islice(_records(unit, job.id_column, column, storage), PEEKED)
    if not any(column in record.columns for record in records):
        raise UsageError(f"{option} is {column!r}; {unit.uri} has no such column")


def read_truth(job: JobOptions, column: str, sample: Ledger, storage: Storage) -> Truth:
    """Of the rows in the sample that have an answer."""
    found = _read(job, column, sample, storage, references_of)
    return {id: references for id, references in found.items() if references}


def read_strata(job: JobOptions, column: str, sample: Ledger, storage: Storage) -> dict[str, str]:
    """Of which kind the rows in the sample are, by id; without those of which that isn't said."""
    found = _read(job, column, sample, storage, stratum_of)
    return {id: stratum for id, stratum in found.items() if stratum is not None}


def _read(job: JobOptions, column: str, sample: Ledger, storage: Storage, meaning: Callable[[Any], T]) -> dict[str, T]:
    """What the column's values mean, by id. Of several rows with one id, the first counts, as it does in a job."""
    found: dict[str, T] = {}
    units = _units(job, storage)
    for part in in_order(values_of, units, TASK_CPUS, job.id_column, column, sample, storage, meaning):
        found = part | found
    return found


def values_of(
    unit: Unit, id_column: str, column: str, sample: Ledger, storage: Storage, meaning: Callable[[Any], T]
) -> dict[str, T]:
    """The part that a unit has."""
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
    """The unit's records with these two columns. Parquet is read by columns, of which its images are none."""
    columns = Columns(id=id_column, image="", question="", prompt="", prompt_columns=(column,))
    return read(unit, storage, columns, images=unit.format == "parquet")
