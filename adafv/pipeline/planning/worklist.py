"""Which rows of the input are to be labelled: decided before anything runs.

One pass over the input reads only the ids, in parallel tasks, as 16-byte digests. In the order of the input, a row is
new, done (the ledger has it), or a repetition of an earlier row. So the first of several rows with one id is labelled
whatever finishes first, the number of rows is known to the progress line, a rerun with nothing to do starts no
worker, and the reading stage needs no ledger: it gets one byte per row, its verdict.

Where the input can't be read in this pass, no id can be judged, and what would follow has no verdict. The reading
stage may have better luck, and would then label what is done already, or end before the rows that follow. So such a
place stays unread in this run: it is rejected as it was found, and the next run plans it anew.

With `--sample` only some of the rows are the input; the rest is as if it weren't there. Drawn are the ids whose digests
are the least, by their last half. Digests are random, so this is a random sample; and it is the same in every run, a
smaller one is part of a larger, and where the input grows, only as many rows change as new ones are drawn. Digests need
no further hash: what cuts rows into parts by a hash, such as this module's buckets, takes its first bytes.

Rows that are drawn one by one show what labels are like, but not what labelling takes: questions about one picture
stand together, and share its encoding. So `jobs/label.py` draws stretches of adjacent rows, by the digest of their
first. They stay the same where whole files are added; rows put in between shift those behind them, in the same file of
a table, or in the same folder of images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id, digest_place, read_ledger
from adafv.pipeline.passed import Passed, PassedOver
from adafv.pipeline.setup import Setup
from adafv.pipeline.sources.formats import read
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
    """A unit of which something is to be done. `verdicts`: uint8, one per record."""

    unit: Unit
    verdicts: np.ndarray


@dataclass(frozen=True)
class Scan:
    """A unit's rows: their digests [N], and the numbers of those that could not be read; and what is no row."""

    digests: np.ndarray
    unread: list[int]
    passed: tuple[Passed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """What a run has to do: its tasks, and how many rows the input has, how many of them are done.

    Attributes:
        sample: the digests of the rows drawn, which are then all the rows there are.
        passed: what the input shows and no row is made of.
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
    """The rows of a job's input, held against its output.

    Raises:
        UsageError: the output can't be read, or there are no rows.
        RunError: the store is away.
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
    """Scan the ids of `units` and judge the first `limit` rows, or so many of them as `sample` says.

    Args:
        num_cpus: what a scanning task reserves.
        adjacent: how many rows are drawn together.
        shown: what was passed over before there were units.
    """
    gathered, counts, unread, passed = bytearray(), [], [], PassedOver(shown)
    for scanned in _take(in_order(scan_unit, units, num_cpus, storage, columns), limit):
        unread += [len(gathered) // DIGEST.itemsize + number for number in scanned.unread]
        gathered += scanned.digests.data  # a copy, so that Ray's shared memory need not hold the original
        counts.append(len(scanned.digests))
        passed.update(scanned.passed)
    digests = np.frombuffer(gathered, DIGEST)
    drawn = None
    if sample is not None:
        drawn = draw(digests, sample) if adjacent == 1 else draw_stretches(digests, counts, sample, adjacent)
    if drawn is not None and unread:
        LOG.warning("%s places of the input can't be read: the sample is drawn from the rest", f"{len(unread):,}")
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
    """So many of the distinct digests, or all if they are fewer. Takes memory for `size` and for a 256th of them."""
    drawn = np.empty(0, DIGEST)
    for rows in _buckets(digests):
        found = digests[rows]
        if len(drawn) == size:
            found = found[_order(found) <= _order(drawn)[-1]]
        found = np.unique(np.concatenate([drawn, found]))
        drawn = found[np.argsort(_order(found), kind="stable")[:size]]
    return Ledger([drawn.tobytes()])


def draw_stretches(digests: np.ndarray, counts: Sequence[int], size: int, length: int) -> Ledger:
    """Likewise, but in stretches of `length` rows, the last one cut short; units of so many rows as `counts` says are
    cut into stretches each by itself, so that those of one stay where others are added.
    """
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
        # As bytes of their full length: numpy's strings have no zeros at their ends.
        drawn |= dict.fromkeys(digests[starts[stretch] : ends[stretch]].view("V16").tolist())
    return Ledger([*drawn][:size])


def _order(digests: np.ndarray) -> np.ndarray:
    """uint64 [N]: the last half of digests [N], by which they are drawn."""
    return digests.view("<u8").reshape(-1, 2)[:, 1]


def judge(digests: np.ndarray, ledger: Ledger, drawn: Ledger | None = None) -> np.ndarray:
    """uint8 [N]: the verdict on each of the input's rows, given as digests [N] in the input's order.

    Of those `drawn`, if any are, the first row each is the input, and no other.
    """
    verdicts = np.empty(len(digests), dtype=np.uint8)
    for rows in _buckets(digests):
        verdicts[rows] = _judge_bucket(digests[rows], ledger, drawn)
    return verdicts


def _buckets(digests: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the rows, ascending, by the first byte of their digest.

    Equal digests share a bucket. So what sorting needs besides the digests, three times their size, is needed for a
    256th of them at a time, which also fits a processor's cache longer.
    """
    first = digests.view(np.uint8)[:: DIGEST.itemsize].copy()
    for byte in range(256):
        yield np.flatnonzero(first == byte)


def _judge_bucket(digests: np.ndarray, ledger: Ledger, drawn: Ledger | None) -> np.ndarray:
    order = np.argsort(digests, kind="stable")  # of equal ones, the first of the input stays the first
    in_order = digests[order]
    repeated = np.zeros(len(digests), dtype=bool)
    repeated[1:] = in_order[1:] == in_order[:-1]
    found = np.where(repeated, REPEATED, NEW).astype(np.uint8)
    found[ledger.contains(in_order)] = DONE
    if drawn is not None:
        found[repeated | ~drawn.contains(in_order)] = UNDRAWN
    verdicts = np.empty_like(found)
    verdicts[order] = found
    return verdicts


def _take(scans: Iterator[Scan], limit: int | None) -> Iterator[Scan]:
    """The first `limit` rows; scanning ends when they are there."""
    left = limit
    for scan in scans:
        if left is not None:
            scan = replace(
                scan, digests=scan.digests[:left], unread=[number for number in scan.unread if number < left]
            )
            left -= len(scan.digests)
        yield scan
        if left == 0:
            break


def in_order(function: Callable[..., T], units: Sequence[Unit], num_cpus: float, *given: Any) -> Iterator[T]:
    """What `function` makes of each unit and of what else it is `given`, in order. It is called in tasks, each of which
    reserves `num_cpus`, and of which a bounded number runs ahead."""
    task = ray.remote(num_cpus=num_cpus)(function)
    ahead = max(4, 2 * int(ray.cluster_resources().get("CPU", 1)))
    waiting = [task.remote(unit, *given) for unit in units[:ahead]]
    for i in range(len(units)):
        made = ray.get(waiting.pop(0))
        if i + ahead < len(units):
            waiting.append(task.remote(units[i + ahead], *given))
        yield made


def scan_unit(unit: Unit, storage: Storage, columns: Columns) -> Scan:
    """A unit's rows, in order, and what is none."""
    unread: list[int] = []
    passed = PassedOver()

    def digests() -> Iterator[bytes]:
        for number, record in enumerate(read(unit, storage, columns, images=False, passed=passed)):
            id = id_of(record.columns.get(columns.id))
            if id is None and record.reject is not None and record.reject.retryable:
                unread.append(number)
            yield digest_place(record.place) if id is None else digest_id(id)

    found = np.fromiter(digests(), dtype=DIGEST)
    if not len(found) and not passed.total():
        passed.add("files", "no row stands in it", unit.uri)
    return Scan(found, unread, tuple(passed))
