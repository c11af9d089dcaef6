"""The labels of an output, streamed into sums, distributions and a few rows that stand out. Memory doesn't grow with
the output. All rows are read with light columns only; the few shown rows are read in full afterwards."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.outputs.ledger import digest_labels
from adafv.pipeline.outputs.reader import FileRow, pick_labels, read_labels
from adafv.pipeline.record import tally
from adafv.pipeline.store.storage import Storage
from adafv.reporting.timeline import Timeline
from adafv.reporting.top_rows import TopRows, spread_keys

SUMMED = ("batch_size", *(name for name in tally.SUMMED if name != "cost_usd"))  # costs are recomputed
# Columns read for all rows; and for those that stand out: the JSON's, and the page's besides.
READ = (
    "id", *SUMMED, "mean_logprob", "finish_reason", "flags", "strategy", "run_id", "labelled_at", "from_text",
    "from_saliency", "looks", "answer", "first_answer", "audit_answer",
)  # fmt: skip
SHOWN = ("id", "image", "question", "answer", "mean_logprob", "gpu_seconds", "kept_tokens", "visual_tokens")
DRAWN = (
    *SHOWN, "finish_reason", "output_tokens", "strategy", "run_id", "kept_indices", "kept_cues", "grid", "images",
    "image_uri",
)  # fmt: skip
SECOND_LOOK = ("keep", "looks", "first_answer", "first_confidence", "first_kept_indices")

SECOND = 1_000_000  # microseconds
BINS = 20  # of confidence, and of the text cue's share
RATIOS = 100  # bins of the share of tokens kept
DECADES, PER_DECADE = (-4, 4), 6  # bins of a sample's seconds


@dataclass
class Subtotal:
    """Labels and gpu-seconds of a minute of a run, or of a strategy."""

    rows: int = 0
    gpu_seconds: float = 0.0

    @property
    def mean(self) -> float:
        return self.gpu_seconds / self.rows

    def add(self, rows: int, gpu_seconds: float) -> None:
        self.rows += rows
        self.gpu_seconds += gpu_seconds


class SecondLooks:
    """What second looks took and changed.

    Attributes:
        rows: how many rows had one; `changed`: how many of them got another answer.
        revised: a uniform sample of those, each with its `file` and `row`.
    """

    def __init__(self) -> None:
        self.rows = self.changed = 0
        self.revised = TopRows(["file", "row"])
        self._paid = 0  # rows with one, without reused labels
        self._once, self._twice = Subtotal(), Subtotal()  # without audited rows as well

    def add(self, batch: pa.RecordBatch, seconds: np.ndarray, audited: np.ndarray, keys: np.ndarray) -> None:
        """`batch` has the columns `READ`; `audited`: bool [N]; `keys`: float64 [N], the smallest are sampled."""
        again = pc.equal(batch.column("looks"), 2).fill_null(False).to_numpy(zero_copy_only=False)
        other = pc.not_equal(batch.column("answer"), batch.column("first_answer")).fill_null(False)
        changed = again & other.to_numpy(zero_copy_only=False)
        self.rows += int(again.sum())
        self.changed += int(changed.sum())
        self._paid += int(np.count_nonzero(seconds[again]))
        for part, looked in ((self._once, ~audited & ~again), (self._twice, ~audited & again)):
            part.add(int(np.count_nonzero(seconds[looked])), float(seconds[looked].sum()))
        self.revised.add(batch, np.where(changed, keys, np.nan))

    @property
    def seconds(self) -> float | None:
        """About how many worker seconds these rows took beyond rows with one look. None if there are no rows of either
        kind to go by."""
        if not self._paid:
            return 0.0
        if not self._once.rows or not self._twice.rows:
            return None
        return self._paid * (self._twice.mean - self._once.mean)


class LabelFigures:
    """Figures of all labels that were added.

    Attributes:
        rows: how many.
        totals: sums of `SUMMED`.
        minutes: by run, and by minute since 1970.
        timeline: when they were made.
        strategies: labels and gpu-seconds by strategy.
        worked: the same without reused labels, by strategy and whether the label was asked unpruned as well.
        finished: answers by finish reason; `flags`: answers by flag.
        confidence: answers by mean token probability, in `BINS` equal bins from 0 to 1.
        latency: labels, without reused ones, by seconds: `PER_DECADE` bins per power of ten from `DECADES[0]` on.
        split: int64 [RATIOS, BINS]: labels by the share of tokens kept, and by the text cue's share of what both cues
            picked; in equal bins from 0 to 1.
        second_looks: what second looks took and changed.
        unsure, slow, spread: the least confident answers, the slowest, and a uniform sample by a hash of the ids; each
            row with its `file` and `row`.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch] = ()) -> None:
        self.rows = 0
        self.totals = dict.fromkeys(SUMMED, 0.0)
        self.minutes: dict[str, dict[int, Subtotal]] = defaultdict(lambda: defaultdict(Subtotal))
        self.timeline = Timeline()
        self.strategies: dict[str, Subtotal] = defaultdict(Subtotal)
        self.worked: dict[tuple[str, bool], Subtotal] = defaultdict(Subtotal)
        self.finished: dict[str, int] = defaultdict(int)
        self.flags: Counter[str] = Counter()
        self.confidence = np.zeros(BINS, dtype=np.int64)
        self.latency = np.zeros(PER_DECADE * (DECADES[1] - DECADES[0]), dtype=np.int64)
        self.split = np.zeros((RATIOS, BINS), dtype=np.int64)
        self.second_looks = SecondLooks()
        self.unsure, self.slow, self.spread = (TopRows(["file", "row"]) for _ in range(3))
        for batch in batches:
            self.add(batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """`batch` has the columns `READ`, and `file` and `row`."""
        if not batch.num_rows:
            return
        self.rows += batch.num_rows
        values = {name: _numbers(batch, name) for name in (*SUMMED, "mean_logprob", "from_text", "from_saliency")}
        for name in SUMMED:
            self.totals[name] += float(np.nansum(values[name]))
        seconds, audited = values["gpu_seconds"], _audited(batch)
        self._group(batch, np.nan_to_num(seconds), audited)
        self.flags.update(pc.list_flatten(batch.column("flags")).to_pylist())
        self.confidence += _counted(np.exp(values["mean_logprob"]), BINS)
        taken = np.where(seconds > 0, seconds, np.nan)  # reused labels took none
        decades = np.log10(taken.clip(10.0 ** DECADES[0])) - DECADES[0]
        self.latency += _counted(decades / (DECADES[1] - DECADES[0]), len(self.latency))
        self.split += _split(values)
        self.unsure.add(batch, values["mean_logprob"])
        self.slow.add(batch, -seconds)
        keys = spread_keys(digest_labels(batch))
        self.spread.add(batch, keys)
        self.second_looks.add(batch, np.nan_to_num(seconds), audited, keys)

    def _group(self, batch: pa.RecordBatch, seconds: np.ndarray, audited: np.ndarray) -> None:
        """Add to the sums by run and minute, by strategy and by finish reason."""
        times = batch.column("labelled_at").cast(pa.int64())
        self.timeline.add(times.drop_null().to_numpy() // SECOND)
        minutes = pc.divide(times, 60 * SECOND)
        named = {name: batch.column(name).fill_null("") for name in ("run_id", "strategy", "finish_reason")}
        table = pa.table(named | {"minute": minutes.fill_null(0), "seconds": seconds, "audited": audited})
        for (run_id, minute), rows, spent in _grouped(table, "run_id", "minute"):
            self.minutes[run_id][minute].add(rows, spent)
        for (strategy,), rows, spent in _grouped(table, "strategy"):
            self.strategies[strategy].add(rows, spent)
        for key, rows, spent in _grouped(table.filter(pc.greater(table["seconds"], 0)), "strategy", "audited"):
            self.worked[key].add(rows, spent)
        for (reason,), rows, _ in _grouped(table, "finish_reason"):
            self.finished[reason] += rows

    def last_label(self, run_id: str, start: datetime, end: datetime | None) -> datetime | None:
        """The end of the last minute, from that of `start` to before that of `end`, in which the run labelled
        anything."""
        first, last = _minute(start), None if end is None else _minute(end)
        found = [m for m in self.minutes.get(run_id, ()) if m >= first and (last is None or m < last)]
        return datetime.fromtimestamp(60 * (max(found) + 1), UTC) if found else None

    def gpu_seconds(self, run_id: str) -> float:
        return sum(minute.gpu_seconds for minute in self.minutes.get(run_id, {}).values())


def read_figures(uri: str | os.PathLike[str], storage: Storage) -> LabelFigures:
    """The figures of an output's labels; rows that stand out have the columns `DRAWN` and `SECOND_LOOK`."""
    figures = LabelFigures(read_labels(uri, READ, storage, numbered=True))
    kinds = (figures.unsure, figures.slow, figures.spread, figures.second_looks.revised)
    rows = [row for kind in kinds for row in kind.rows]
    found = pick_labels(uri, map(_place, rows), (*DRAWN, *SECOND_LOOK), storage)
    for row in rows:
        row.update({name: _finite(value) for name, value in found[_place(row)].items()})
    return figures


def _audited(batch: pa.RecordBatch) -> np.ndarray:
    """bool [N]: which labels were asked unpruned as well. A whole one is its own audit."""
    pruned = pc.less(batch.column("kept_tokens"), batch.column("visual_tokens")).fill_null(False)
    audited: pa.Array = pc.and_(pc.is_valid(batch.column("audit_answer")), pruned)
    return audited.to_numpy(zero_copy_only=False)


def _finite(value: Any) -> Any:
    """`value`, but None for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _place(row: dict[str, Any]) -> FileRow:
    return row["file"], row["row"]


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """float64 [N]: a column, with NaN for null and infinity."""
    values = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(values), values, np.nan)


def _counted(shares: np.ndarray, bins: int) -> np.ndarray:
    """int64 [bins]: a histogram of shares from 0 to 1, without NaN."""
    return np.bincount(_bin(shares[~np.isnan(shares)], bins), minlength=bins)


def _bin(shares: np.ndarray, bins: int) -> np.ndarray:
    return (shares * bins).clip(0, bins - 1).astype(np.int64)


def _split(values: dict[str, np.ndarray]) -> np.ndarray:
    """int64 [RATIOS, BINS]: the counts of `LabelFigures.split`."""
    text, saliency, seen = values["from_text"], values["from_saliency"], values["visual_tokens"]
    known = (text + saliency > 0) & (seen > 0) & ~np.isnan(values["kept_tokens"])
    ratios = _bin(values["kept_tokens"][known] / seen[known], RATIOS)
    shares = _bin(text[known] / (text + saliency)[known], BINS)
    return np.bincount(ratios * BINS + shares, minlength=RATIOS * BINS).reshape(RATIOS, BINS)


def _minute(time: datetime) -> int:
    return int(time.timestamp()) // 60


def _grouped(table: pa.Table, *names: str) -> Iterator[tuple[tuple[Any, ...], int, float]]:
    """By the values of some columns: how many rows, and the sum of their seconds."""
    sums = table.group_by(names, use_threads=False).aggregate([([], "count_all"), ("seconds", "sum")])
    for row in sums.to_pylist():
        yield tuple(row[name] for name in names), row["count_all"], row["seconds_sum"]
