"""Reading an output: its labels, the rejects that still hold, and the count that shows that nothing is lost or twice.

`labels/` is clean as it stands, and any Parquet reader will do. `rejects/` is a history: a row that was tried again is
in it once for each time that it failed, even if it has a label by now. Such a reject is superseded. What supersedes it
lies in other files, so the ids are compared first, as digests: 16 bytes each, however long the ids.

Needs neither Ray nor torch. Everything is streamed, file by file, also from S3. Of an output that a job is writing,
the files that are there at the call are read.
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

Place = tuple[str, int]  # a file under labels/, and the number of a row in it
WHOLE_FILES_AHEAD = 2  # where all columns may be wanted, a file can take hundreds of megabytes


@dataclass(frozen=True)
class Reconciliation:
    """An output counted up.

    Attributes:
        labelled: distinct ids that have a label.
        rejected: the rejects that hold, by error.
        superseded: rejects whose row has a label by now, or was rejected again later.
        duplicates: ids that stand more than once in labels/. Anything but 0 is a bug.
    """

    labelled: int
    rejected: dict[str, int]
    superseded: int
    duplicates: int


def read_labels(
    uri: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
    places: bool = False,
    whole: bool | None = None,
) -> Iterator[pa.RecordBatch]:
    """The labels of the output at `uri`, a local folder or s3://; of some `columns`, or of all.

    With `places` each has two more columns, `file` and `row`, by which `pick_labels` finds it again. Properties of
    answers in JSON are columns, too. Where no `columns` are named, or with `whole`, they stand behind the others; of
    runs with different schemas, batches then have different columns.

    Raises UsageError where there is no output, or no such column.
    """
    output = _open(uri, storage)
    paths = output.parquet_files("labels")
    asked = [] if columns is None else [name for name in columns if name not in schema.LABELS.names]
    properties = properties_of(output, paths, asked)
    names = _columns(columns, [field.name for field in properties])
    whole = columns is None if whole is None else whole
    return read_batches(output, paths, names, WHOLE_FILES_AHEAD, places, whole, properties)


def pick_labels(
    uri: str | os.PathLike[str],
    places: Iterable[Place],
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
) -> dict[Place, dict[str, Any]]:
    """A few labels by their places: so that a reader of all need not read the columns that it wants of a few only."""
    names, output = _columns(columns), _open(uri, storage)
    numbers: dict[str, list[int]] = {}
    for file, row in dict.fromkeys(places):
        numbers.setdefault(file, []).append(row)
    return {
        (file, row): values
        for file, wanted in numbers.items()
        for row, values in pick_rows(output, file, wanted, names).items()
    }


def _columns(columns: Sequence[str] | None, properties: Sequence[str] = ()) -> list[str]:
    """Those that are asked for, all of them if None."""
    names = schema.LABELS.names if columns is None else list(columns)
    if unknown := [name for name in names if name not in (*schema.LABELS.names, *properties)]:
        raise UsageError(f"labels have no column {unknown[0]!r}; there are {', '.join(schema.LABELS.names)}")
    return names


def read_rejects(
    uri: str | os.PathLike[str], superseded: bool = False, storage: Storage | None = None
) -> Iterator[pa.RecordBatch]:
    """The rejects of the output at `uri` that hold; or all of them, with a column `superseded` that tells them apart.

    Raises UsageError where there is no output.
    """
    output = _open(uri, storage)
    paths = output.parquet_files("rejects")
    old = _superseded(output, paths, lambda keys: _labelled(output, keys))
    batches = _marked(output, paths, schema.REJECTS.names, old)
    return batches if superseded else (_that_hold(batch) for batch in batches)


def reconcile(
    uri: str | os.PathLike[str],
    storage: Storage | None = None,
    on_rejects: Callable[[pa.RecordBatch], object] | None = None,
) -> Reconciliation:
    """Count up the output at `uri`. Takes 16 bytes of memory for each label.

    `on_rejects` is shown the rejects that hold, batch by batch, as `read_rejects` would give them: they are at hand.

    Raises UsageError where there is no output.
    """
    output = _open(uri, storage)
    paths = output.parquet_files("rejects")
    labels = Ledger(map(digest_labels, read_batches(output, output.parquet_files("labels"), ["id"], FILES_AHEAD)))
    old = _superseded(output, paths, labels.contains)
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


def _superseded(output: Output, paths: Sequence[str], labelled: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """bool [N]: which of the N rejects in the files at `paths`, in order, are superseded.

    `labelled` tells of sorted digests which have a label. A `duplicate_id` is never superseded: it shares its id with
    another row, and it is that row which the label, or the other reject, is of.
    """
    gathered, times, repeats = bytearray(), [np.empty(0, np.int64)], [np.empty(0, bool)]
    for batch in read_batches(output, paths, ["id", "image", "error", "rejected_at"], FILES_AHEAD):
        gathered += digest_rejects(batch)
        times.append(batch.column("rejected_at").cast(pa.int64()).to_numpy())
        repeats.append(pc.equal(batch.column("error"), "duplicate_id").to_numpy(zero_copy_only=False))
    digests, when = np.frombuffer(gathered, DIGEST), np.concatenate(times)
    rows = np.flatnonzero(~np.concatenate(repeats))
    rows = rows[np.lexsort((when[rows], digests[rows]))]  # by what they are of, the latest last
    keys = digests[rows]
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = keys[1:] != keys[:-1]
    superseded = np.zeros(len(digests), dtype=bool)
    superseded[rows[~last]] = True
    superseded[rows[last]] = labelled(keys[last])
    return superseded


def _labelled(output: Output, keys: np.ndarray) -> np.ndarray:
    """bool [N]: which of the distinct, sorted digests [N] have a label. The labels' own are not kept."""
    found = np.zeros(len(keys), dtype=bool)
    if not len(keys):
        return found
    for batch in read_batches(output, output.parquet_files("labels"), ["id"], FILES_AHEAD):
        digests = np.frombuffer(digest_labels(batch), DIGEST)
        at = np.searchsorted(keys, digests).clip(max=len(keys) - 1)
        found[at[keys[at] == digests]] = True
    return found


def _marked(
    output: Output, paths: Sequence[str], columns: list[str], superseded: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The rejects, with which of them are superseded as a column."""
    start = 0
    for batch in read_batches(output, paths, columns, WHOLE_FILES_AHEAD):
        yield batch.append_column("superseded", pa.array(superseded[start : start + batch.num_rows]))
        start += batch.num_rows


def _that_hold(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.invert(batch.column("superseded"))).drop_columns(["superseded"])
