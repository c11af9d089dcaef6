"""Reads an output: its labels, the current rejects, and counts that show that nothing is lost or duplicated.

`labels/` can be read by any Parquet reader. `rejects/` is a history: a row that was retried is in it once per failure,
even if it has a label by now. Such a reject is superseded. That is found by comparing 16-byte digests of the ids.

Needs neither Ray nor torch, and streams file by file, also from S3. While a job writes the output, the files present at
the call are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.batches import pick_rows, properties_of, read_batches
from adafv.pipeline.outputs.ledger import DIGEST, FILES_AHEAD, Ledger, digest_labels, digest_rejects
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.s3 import S3_ERRORS
from adafv.pipeline.store.storage import Storage

FileRow = tuple[str, int]  # a file under labels/, and the number of a row in it
WHOLE_FILES_AHEAD = 2  # with all columns, a file can take hundreds of megabytes


@dataclass(frozen=True)
class Reconciliation:
    """The counts of an output.

    Attributes:
        labelled: distinct ids with a label.
        rejected: current rejects by error.
        superseded: rejects whose row has a label by now, or was rejected again later.
        duplicates: ids that are in labels/ more than once. Anything but 0 is a bug.
    """

    labelled: int
    rejected: dict[str, int]
    superseded: int
    duplicates: int


def read_labels(
    uri: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
    numbered: bool = False,
    whole: bool | None = None,
) -> Iterator[pa.RecordBatch]:
    """The labels of the output at `uri`, a local folder or s3://; some `columns` or all.

    With `numbered` there are two more columns, `file` and `row`, which `pick_labels` takes. With `whole`, or if no
    `columns` are named, those that a job added follow the others: `duplicate_of`, carried-over input, and properties of
    JSON answers. They differ between runs with different options.

    Raises UsageError if there is no output or no such column.
    """
    output = _open(uri, storage)
    paths = output.parquet_files("labels")
    asked = [] if columns is None else [name for name in columns if name not in schema.LABELS.names]
    properties = properties_of(output, paths, asked)
    names = _columns(columns, [field.name for field in properties])
    whole = columns is None if whole is None else whole
    return read_batches(output, paths, names, WHOLE_FILES_AHEAD, numbered, whole, properties)


def pick_labels(
    uri: str | os.PathLike[str],
    wanted: Iterable[FileRow],
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
) -> dict[FileRow, dict[str, Any]]:
    """A few labels by file and row, so that a reader of all labels can skip the columns it needs for a few only."""
    names, output = _columns(columns), _open(uri, storage)
    numbers: dict[str, list[int]] = {}
    for file, row in dict.fromkeys(wanted):
        numbers.setdefault(file, []).append(row)
    return {
        (file, row): values
        for file, rows in numbers.items()
        for row, values in pick_rows(output, file, rows, names).items()
    }


def _columns(columns: Sequence[str] | None, properties: Sequence[str] = ()) -> list[str]:
    """The requested columns, or all."""
    names = schema.LABELS.names if columns is None else list(columns)
    if unknown := [name for name in names if name not in (*schema.LABELS.names, *properties)]:
        raise UsageError(f"labels have no column {unknown[0]!r}; there are {', '.join(schema.LABELS.names)}")
    return names


def read_rejects(
    uri: str | os.PathLike[str], superseded: bool = False, storage: Storage | None = None
) -> Iterator[pa.RecordBatch]:
    """The current rejects of the output at `uri`; or all, with a column `superseded`. Takes 16 bytes of memory per
    label. Raises UsageError if there is no output."""
    output = _open(uri, storage)
    paths = output.parquet_files("rejects")
    old = _superseded(output, paths, _read_labelled(output))
    batches = _marked(output, paths, schema.REJECTS.names, old)
    return batches if superseded else (_that_hold(batch) for batch in batches)


def reconcile(
    uri: str | os.PathLike[str],
    storage: Storage | None = None,
    on_rejects: Callable[[pa.RecordBatch], object] | None = None,
) -> Reconciliation:
    """Count the output at `uri`. Takes 16 bytes of memory per label.

    `on_rejects` is called with each batch of current rejects, with all columns, as they are read.

    Raises UsageError if there is no output.
    """
    output = _open(uri, storage)
    paths = output.parquet_files("rejects")
    labels = _read_labelled(output)
    old = _superseded(output, paths, labels)
    rejected: Counter[str] = Counter()
    for batch in _marked(output, paths, schema.REJECTS.names if on_rejects else ["error"], old):
        holding = _that_hold(batch)
        rejected.update(holding.column("error").to_pylist())
        if on_rejects:
            on_rejects(holding)
    distinct, repeated = labels.distinct_and_repeated()
    return Reconciliation(distinct, dict(sorted(rejected.items())), int(np.count_nonzero(old)), repeated)


def _open(uri: str | os.PathLike[str], storage: Storage | None) -> Output:
    output = open_output(os.fspath(uri), storage or Storage.from_environment())
    try:
        found = any(output.names(folder) for folder in ("runs", "labels", "rejects"))
    except (*S3_ERRORS, OSError) as error:
        raise UsageError(f"{output.uri} can't be read: {safe_message(str(error))}") from error
    if not found:
        raise UsageError(
            f"{output.uri} is no output of a labelling job: there is neither runs/ nor labels/ nor rejects/"
        )
    return output


def _read_labelled(output: Output) -> Ledger:
    """The digests of the labels."""
    return Ledger(map(digest_labels, read_batches(output, output.parquet_files("labels"), ["id"], FILES_AHEAD)))


def _superseded(output: Output, paths: Sequence[str], labels: Ledger) -> np.ndarray:
    """bool [N]: which of the N rejects in the files at `paths`, in order, are superseded.

    A `duplicate_id` is never superseded: the label or other reject with its id belongs to another row.
    """
    gathered, times, repeats = bytearray(), [np.empty(0, np.int64)], [np.empty(0, bool)]
    for batch in read_batches(output, paths, ["id", "image", "error", "rejected_at"], FILES_AHEAD):
        gathered += digest_rejects(batch)
        times.append(batch.column("rejected_at").cast(pa.int64()).to_numpy())
        repeats.append(pc.equal(batch.column("error"), "duplicate_id").to_numpy(zero_copy_only=False))
    digests, when = np.frombuffer(gathered, DIGEST), np.concatenate(times)
    rows = np.flatnonzero(~np.concatenate(repeats))
    rows = rows[np.lexsort((when[rows], digests[rows]))]  # by row, the latest last
    keys = digests[rows]
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = keys[1:] != keys[:-1]
    superseded = np.zeros(len(digests), dtype=bool)
    superseded[rows[~last]] = True
    superseded[rows[last]] = labels.contains(keys[last])
    return superseded


def _marked(
    output: Output, paths: Sequence[str], columns: list[str], superseded: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The rejects with a column `superseded`."""
    start = 0
    for batch in read_batches(output, paths, columns, WHOLE_FILES_AHEAD):
        yield batch.append_column("superseded", pa.array(superseded[start : start + batch.num_rows]))
        start += batch.num_rows


def _that_hold(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.invert(batch.column("superseded"))).drop_columns(["superseded"])
