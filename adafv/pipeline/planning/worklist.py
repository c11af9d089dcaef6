"""Decides which rows of the input to label, before anything runs.

One pass over the input reads only the ids, in parallel tasks, as 16-byte digests. In the input's order, a row is new,
done (in the ledger), or a repetition of an earlier row. So the first of several rows with one id is labelled whatever
finishes first, the number of rows is known, a rerun with nothing to do starts no worker, and the reading stage needs
only one byte per row, its verdict. Of the repetitions of an id, the first so many are done as have a reject.

Where this pass can't read the input, ids can't be judged and what follows has no verdict. The reading stage might be
able to read it, and would label done rows again. So such a place stays unread in this run: it is rejected, and the next
run plans it anew.

`--sample` draws the ids whose digests are smallest by their last half. That is a random sample, the same in every run;
a smaller sample is part of a larger one, and a growing input changes few of its rows.

Single rows show what labels are like, but not what labelling costs: questions about one image stand together and share
its encoding. So by default `--sample` draws stretches of adjacent rows, by the digest of their first. These stay the
same when files are added; rows inserted into a file, or into a folder of images, shift those behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.exceptions

from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id, digest_place, read_ledger
from adafv.pipeline.passed import Passed, PassedOver
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.setup import Setup
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.store.storage import Storage

NEW, DONE, REPEATED, UNREAD, UNDRAWN = 0, 1, 2, 3, 4  # verdicts
LOG = logging.getLogger("adafv")
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A unit with work to do. `verdicts`: uint8, one per record."""

    unit: Unit
    verdicts: np.ndarray


@dataclass(frozen=True)
class Scan:
    """A unit's row digests [N], the numbers of unreadable rows, and what was passed over."""

    digests: np.ndarray
    unread: list[int]
    passed: tuple[Passed, ...]


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """What a run has to do.

    Attributes:
        rows: rows in the input; `skipped`: of these, done before.
        sample: the digests of the drawn rows, if `--sample` is given; these are then all rows.
        passed: input that makes no row.
    """

    tasks: tuple[Task, ...]
    rows: int
    skipped: int
    sample: Ledger | None = None
    passed: tuple[Passed, ...] = ()

    @property
    def to_do(self) -> int:
        return self.rows - self.skipped


def find_worklist(setup: Setup) -> Worklist:
    """The rows of a job's input, compared with its output.

    Raises:
        UsageError: the output can't be read, or there are no rows.
        RunError: the store is unavailable, or a scanning task dies.
    """
    options, output = setup.options, setup.output
    try:
        ledger = read_ledger(output, options.retry_rejects)
    except (*S3_ERRORS, OSError, pa.ArrowException) as error:
        raise store_error(f"--output {output.uri} can't be read", error) from error
    worklist = make_worklist(
        setup.source.units,
        ledger,
        storage=setup.storage,
        columns=setup.columns,
        num_cpus=setup.resources.read_cpus,
        limit=options.limit,
        sample=options.sample,
        adjacent=options.sample_adjacent,
        shown=setup.source.passed,
    )
    if not worklist.rows:
        also = "".join(f"; passed over: {one}" for one in worklist.passed)
        raise UsageError(f"--input {' '.join(options.input)}: there are no rows{also}")
    return worklist


def make_worklist(
    units: Sequence[Unit],
    ledger: Ledger,
    *,
    storage: Storage,
    columns: Columns,
    num_cpus: float,
    limit: int | None = None,
    sample: int | None = None,
    adjacent: int = 1,
    shown: Iterable[Passed] = (),
) -> Worklist:
    """Scan the ids of `units` and judge the first `limit` rows, or a `sample` of them.

    Args:
        num_cpus: the reservation of a scanning task.
        adjacent: how many rows are drawn together.
        shown: what was passed over before there were units.
    """
    gathered, counts, unread, passed = bytearray(), [], [], PassedOver(shown)
    rows = 0
    for scanned in map_units(scan_unit, units, num_cpus, storage, columns):
        found = scanned.digests if limit is None else scanned.digests[: limit - rows]
        unread += [rows + number for number in scanned.unread if number < len(found)]
        gathered += found.data  # a copy, so that Ray's shared memory need not hold the original
        counts.append(len(found))
        passed.update(scanned.passed)
        rows += len(found)
        if rows == limit:
            break
    digests = np.frombuffer(gathered, DIGEST)
    drawn = None
    if sample is not None:
        drawn = draw(digests, sample) if adjacent == 1 else draw_stretches(digests, counts, sample, adjacent)
    if drawn is not None and unread:
        LOG.warning("%s places of the input can't be read, so the sample is drawn from the rest", f"{len(unread):,}")
    verdicts = judge(digests, ledger, drawn)
    verdicts[[number for number in unread if verdicts[number] != UNDRAWN]] = UNREAD
    parts = np.split(verdicts, np.cumsum(counts)[:-1]) if counts else []
    tasks = tuple(
        Task(unit, part) for unit, part in zip(units, parts, strict=False) if not np.isin(part, (DONE, UNDRAWN)).all()
    )
    return Worklist(
        tasks=tasks,
        rows=len(verdicts) - int(np.count_nonzero(verdicts == UNDRAWN)),
        skipped=int(np.count_nonzero(verdicts == DONE)),
        sample=drawn,
        passed=tuple(passed),
    )


def draw(digests: np.ndarray, size: int) -> Ledger:
    """`size` of the distinct digests, or all if fewer. Takes memory for `size` and for a 256th of them."""
    drawn = np.empty(0, DIGEST)
    for rows in _buckets(digests):
        found = digests[rows]
        if len(drawn) == size:
            found = found[_order(found) <= _order(drawn)[-1]]
        found = np.unique(np.concatenate([drawn, found]))
        drawn = found[np.argsort(_order(found), kind="stable")[:size]]
    return Ledger([drawn.tobytes()])


def draw_stretches(digests: np.ndarray, counts: Sequence[int], size: int, length: int) -> Ledger:
    """Likewise in stretches of `length` rows, the last cut short. Each unit, of `counts` rows, is cut by itself, so
    that its stretches stay when units are added."""
    if not len(digests):
        return Ledger()
    firsts = np.cumsum([0, *counts[:-1]])
    starts = np.concatenate(
        [np.arange(first, first + count, length) for first, count in zip(firsts, counts, strict=True)]
    )
    ends = np.minimum(starts + length, np.append(starts[1:], len(digests)))
    drawn: dict[bytes, None] = {}
    for stretch in np.argsort(_order(digests[starts]), kind="stable"):
        if len(drawn) >= size:
            break
        # As V16: numpy's strings drop trailing zeros.
        drawn |= dict.fromkeys(digests[starts[stretch] : ends[stretch]].view("V16").tolist())
    return Ledger([*drawn][:size])


def _order(digests: np.ndarray) -> np.ndarray:
    """uint64 [N]: the last half of digests [N], the order in which they are drawn."""
    return digests.view("<u8").reshape(-1, 2)[:, 1]


def judge(digests: np.ndarray, ledger: Ledger, drawn: Ledger | None = None) -> np.ndarray:
    """uint8 [N]: the verdicts on the input's rows, given their digests [N] in order. If `drawn` is given, only the
    first row of each drawn digest is input."""
    verdicts = np.empty(len(digests), dtype=np.uint8)
    for rows in _buckets(digests):
        verdicts[rows] = _judge_bucket(digests[rows], ledger, drawn)
    return verdicts


def _buckets(digests: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the rows, ascending, by the first byte of their digest. Equal digests share a bucket, so sorting
    needs its memory for a 256th of the rows at a time."""
    first = digests.view(np.uint8)[:: DIGEST.itemsize].copy()
    for byte in range(256):
        yield np.flatnonzero(first == byte)


def _judge_bucket(digests: np.ndarray, ledger: Ledger, drawn: Ledger | None) -> np.ndarray:
    order = np.argsort(digests, kind="stable")  # stable: of equal ones, the input's first stays first
    in_order = digests[order]
    repeated = np.zeros(len(digests), dtype=bool)
    repeated[1:] = in_order[1:] == in_order[:-1]
    found = np.where(repeated, REPEATED, NEW).astype(np.uint8)
    found[~repeated & ledger.contains(in_order)] = DONE
    if ledger.repeats is not None and repeated.any():
        rows = np.arange(len(digests))
        number = rows - np.maximum.accumulate(np.where(repeated, 0, rows))  # 0 for the first row of an id
        found[repeated & (number <= ledger.repeats.times(in_order))] = DONE
    if drawn is not None:
        found[repeated | ~drawn.contains(in_order)] = UNDRAWN
    verdicts = np.empty_like(found)
    verdicts[order] = found
    return verdicts


def map_units(function: Callable[..., T], units: Sequence[Unit], num_cpus: float, *given: Any) -> Iterator[T]:
    """`function(unit, *given)` for each unit, in order, in tasks that reserve `num_cpus`. A bounded number runs ahead.

    Raises RunError if a task fails.
    """
    task = ray.remote(num_cpus=num_cpus)(function)
    ahead = max(4, 2 * int(ray.cluster_resources().get("CPU", 1)))
    waiting = [task.remote(unit, *given) for unit in units[:ahead]]
    for i in range(len(units)):
        try:
            made = ray.get(waiting.pop(0))
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            problem = safe_message(f"{type(cause).__name__}: {cause}")
            raise RunError(f"{units[i].uri} can't be read: {problem}") from error
        if i + ahead < len(units):
            waiting.append(task.remote(units[i + ahead], *given))
        yield made


def scan_unit(unit: Unit, storage: Storage, columns: Columns) -> Scan:
    """A unit's rows, in order."""
    unread: list[int] = []
    passed = PassedOver()

    def digests() -> Iterator[bytes]:
        for number, record in enumerate(read_unit(unit, storage, columns, images=False, passed=passed)):
            id = id_of(record.columns.get(columns.id))
            if id is None and record.reject is not None and record.reject.retryable:
                unread.append(number)
            yield digest_place(record.place) if id is None else digest_id(id)

    found = np.fromiter(digests(), dtype=DIGEST)
    if not len(found) and not passed.total():
        passed.add("files", "no rows were found", unit.uri)
    return Scan(found, unread, tuple(passed))
