"""The labels of an output, streamed into sums, distributions and a few rows that stand out.

What is kept doesn't grow with the output: sums for each minute of a run, and bins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STAGES = ("fetch", "preprocess", "encode", "prune", "prefill", "decode")
SUMMED = (
    "visual_tokens",
    "kept_tokens",
    "prompt_tokens",
    "output_tokens",
    "batch_size",
    *(f"{stage}_ms" for stage in STAGES),
    "gpu_seconds",
)
SHOWN = ("id", "image", "question", "answer", "mean_logprob", "gpu_seconds", "kept_tokens", "visual_tokens")
OTHERS = ("finish_reason", "strategy", "run_id", "labelled_at", "from_text", "from_saliency")
COLUMNS = [*dict.fromkeys([*SHOWN, *SUMMED, *OTHERS])]

MINUTE = 60_000_000  # microseconds
BINS = 20  # of confidence, and of the text cue's share
DECADES, PER_DECADE = (-4, 4), 6  # of a sample's time in seconds
OUTSTANDING = 12  # rows shown of each kind


@dataclass
class Minute:
    """What was labelled in a minute of a run."""

    rows: int = 0
    gpu_seconds: float = 0.0


@dataclass
class Outstanding:
    """The rows with the least of something, the least first.

    Attributes:
        rows: each with the columns `SHOWN`.
    """

    column: str
    sign: int  # -1 for the rows with the most
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch) -> None:
        values = self.sign * batch.column(self.column).to_numpy(zero_copy_only=False).astype(float)
        values = np.where(np.isnan(values), np.inf, values)
        places = np.argsort(values, kind="stable")[:OUTSTANDING]
        if len(self.rows) == OUTSTANDING:
            worst = self.sign * self.rows[-1][self.column]
            places = places[values[places] < worst]
        found = batch.select(SHOWN).take(pa.array(places[np.isfinite(values[places])])).to_pylist()
        self.rows = sorted([*self.rows, *found], key=lambda row: self.sign * row[self.column])[:OUTSTANDING]


class LabelFigures:
    """What is known of all labels that were added.

    Attributes:
        rows: how many.
        totals: sums of `SUMMED`.
        minutes: by run and minute since 1970.
        strategies: by strategy, how many labels and gpu-seconds.
        finished: how many answers ended for which reason.
        confidence: how many answers have a mean token probability in each of `BINS` equal bins from 0 to 1.
        latency: how many took how long: `PER_DECADE` bins for each power of ten from `DECADES[0]` on.
        split: how many owe which share of what both cues picked to the text cue, in `BINS` equal bins.
        unsure, slow: the answers with the least mean log-probability, and those that took longest.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch] = ()) -> None:
        self.rows = 0
        self.totals = dict.fromkeys(SUMMED, 0.0)
        self.minutes: dict[tuple[str, int], Minute] = defaultdict(Minute)
        self.strategies: dict[str, Minute] = defaultdict(Minute)
        self.finished: dict[str, int] = defaultdict(int)
        self.confidence = np.zeros(BINS, dtype=np.int64)
        self.latency = np.zeros(PER_DECADE * (DECADES[1] - DECADES[0]), dtype=np.int64)
        self.split = np.zeros(BINS, dtype=np.int64)
        self.unsure, self.slow = Outstanding("mean_logprob", 1), Outstanding("gpu_seconds", -1)
        for batch in batches:
            self.add(batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """`batch` has the columns `COLUMNS`."""
        if not batch.num_rows:
            return
        self.rows += batch.num_rows
        for name in SUMMED:
            self.totals[name] += pc.sum(batch.column(name)).as_py() or 0
        seconds = batch.column("gpu_seconds").fill_null(0).to_numpy(zero_copy_only=False)
        minutes = batch.column("labelled_at").cast(pa.int64()).to_numpy(zero_copy_only=False) // MINUTE
        for (run_id, minute), rows, spent in _grouped(batch.column("run_id"), minutes, seconds):
            self._count(self.minutes[run_id, minute], rows, spent)
        for (strategy, _), rows, spent in _grouped(batch.column("strategy"), np.zeros_like(minutes), seconds):
            self._count(self.strategies[strategy], rows, spent)
        for reason, count in zip(*_counts(batch.column("finish_reason")), strict=True):
            self.finished[reason] += count
        self.confidence += _binned(pc.exp(batch.column("mean_logprob").drop_null()).to_numpy(zero_copy_only=False))
        bins = (np.log10(seconds.clip(10.0 ** DECADES[0])) - DECADES[0]) * PER_DECADE
        self.latency += np.bincount(bins.astype(int).clip(0, len(self.latency) - 1), minlength=len(self.latency))
        text, saliency = (
            batch.column(f"from_{cue}").fill_null(0).to_numpy(zero_copy_only=False) for cue in ("text", "saliency")
        )
        divided = text + saliency > 0
        self.split += _binned(text[divided] / (text + saliency)[divided])
        self.unsure.add(batch)
        self.slow.add(batch)

    @staticmethod
    def _count(into: Minute, rows: int, gpu_seconds: float) -> None:
        into.rows += rows
        into.gpu_seconds += gpu_seconds

    def latency_bars(self) -> list[tuple[str, float]]:
        """What a sample took, in ms, and how many took that; from the first that there is to the last."""
        found = np.flatnonzero(self.latency)
        if not len(found):
            return []
        places = range(found[0], found[-1] + 1)
        return [
            (f"{1000 * 10 ** (DECADES[0] + place / PER_DECADE):.3g} ms", float(self.latency[place])) for place in places
        ]

    def split_bars(self) -> list[tuple[str, float]]:
        """The text cue's share, and how many samples have it."""
        if not self.split.any():
            return []
        return [(f"{place / BINS:.0%}", float(count)) for place, count in enumerate(self.split)]

    def last_label(self, run_id: str, start: datetime, end: datetime | None) -> datetime | None:
        """The end of the last minute, from that of `start` to before that of `end`, in which the run labelled any."""
        first, last = _minute(start), None if end is None else _minute(end)
        found = [m for run, m in self.minutes if run == run_id and m >= first and (last is None or m < last)]
        return datetime.fromtimestamp(60 * (max(found) + 1), UTC) if found else None

    def gpu_seconds(self, run_id: str) -> float:
        return sum(minute.gpu_seconds for (run, _), minute in self.minutes.items() if run == run_id)


def _binned(shares: np.ndarray) -> np.ndarray:
    """int64 [BINS]: how many of the shares, from 0 to 1, lie in each of so many equal bins."""
    return np.bincount((shares * BINS).astype(int).clip(0, BINS - 1), minlength=BINS)


def _minute(time: datetime) -> int:
    return int(time.timestamp()) // 60


def _counts(column: pa.Array) -> tuple[list[Any], list[int]]:
    counted = pc.value_counts(column)
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()


def _grouped(names: pa.Array, numbers: np.ndarray, seconds: np.ndarray) -> Iterator[tuple[tuple[str, int], int, float]]:
    """By name and number: how many rows there are, and the sum of their seconds."""
    encoded = names.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    keys, group = np.unique(np.stack([codes, numbers]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    rows, sums = np.bincount(group), np.bincount(group, weights=seconds)
    for place, (code, number) in enumerate(keys.T.tolist()):
        yield (encoded.dictionary[code].as_py(), number), int(rows[place]), float(sums[place])
