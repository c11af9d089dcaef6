"""A row of the speed benchmark: what is made of its turns, and the table of all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from adafv.bench import work
from adafv.bench.ceilings import Ceilings
from adafv.bench.rivals import STAGES, BatchAnswers, Rival
from adafv.bench.shapes import Subject
from adafv.bench.table import table as text_table
from adafv.counting import Work

STOCK, UNPRUNED = "stock-none", "ours-none"
LIMITED = ("encode", "prefill", "decode")  # the stages that labelling can't do without


@dataclass(frozen=True)
class Entrant:
    """A row before it is measured. `share`: of the questions, the first of which it answers."""

    name: str
    backend: str
    strategy: str
    keep: float
    rival: Rival
    share: float = 1.0


@dataclass(frozen=True)
class RoundResult:
    """What a row did in one round.

    Attributes:
        seconds: for all questions.
        answered: of each batch.
        peak: bytes of the shared weights, and the most that was taken beside them.
        cpu_seconds: processor time for all questions, of all threads.
    """

    seconds: float
    answered: list[BatchAnswers]
    peak: int
    cpu_seconds: float

    @property
    def samples_per_s(self) -> float:
        return sum(len(each.answers) for each in self.answered) / self.seconds


@dataclass(frozen=True)
class SpeedRow:
    """One row. Times, operations and bytes are of one sample: its share of the median round.

    Attributes:
        backend: whose language model it is, `transformers` or `vllm`.
        over_stock, over_unpruned: how many times as fast as `stock-none` and `ours-none`; None where they are left out.
        operations, bytes: what it takes at least, see `work`, by stage in `stages`.
        limit_ms: the time that encoding, prefill and decoding take at least for that.
        limit_share: of the time measured.
        prune_share: selection's, of the time measured.
        padding_share: of the positions that prefill went through, those that held nothing.
        peak_bytes: the most memory that was taken, the model's weights included.
        encode_ms, prune_ms, prefill_ms, decode_ms, other_ms: the stages, and what lies between them.
        cpu_ms: processor time, the median of the rounds; other work on the machine falsifies it less.
        prompt_tokens, kept_tokens, output_tokens: means; of both looks, where there were two.
        at_once: the most samples that were answered together.
        rounds: samples a second in each round.
    """

    name: str
    backend: str
    strategy: str
    keep: float
    samples_per_s: float
    over_stock: float | None
    over_unpruned: float | None
    operations: float
    bytes: float
    limit_ms: float
    limit_share: float
    prune_share: float
    padding_share: float
    peak_bytes: int
    encode_ms: float
    prune_ms: float
    prefill_ms: float
    decode_ms: float
    other_ms: float
    cpu_ms: float
    prompt_tokens: float
    kept_tokens: float
    output_tokens: float
    at_once: int
    rounds: list[float]
    stages: dict[str, Work]


def median(turns: Sequence[RoundResult]) -> RoundResult:
    """The turn whose time is the median; of an even number, the faster of the two in the middle."""
    return sorted(turns, key=lambda turn: turn.seconds)[(len(turns) - 1) // 2]


def row_of(
    entrant: Entrant, turns: Sequence[RoundResult], speeds: dict[str, float], subject: Subject, ceiling: Ceilings
) -> SpeedRow:
    turn, config, item = median(turns), subject.model.config, subject.model.dtype.itemsize
    whole = reduce(add, turn.answered)
    samples, ms = len(whole.answers), 1000 / turn.samples_per_s
    counted = [work.count(config, item, entrant.strategy, each.crops, each.counts) for each in turn.answered]
    stages = {stage: sum((each[stage] for each in counted), Work()) * (1 / samples) for stage in STAGES}
    limit_ms = 1000 * sum(stages[stage].seconds(ceiling.operations_per_s, ceiling.bytes_per_s) for stage in LIMITED)
    times = {f"{stage}_ms": whole.stage_ms[stage] / samples for stage in STAGES}
    speed = speeds[entrant.name]
    return SpeedRow(
        name=entrant.name,
        backend=entrant.backend,
        strategy=entrant.strategy,
        keep=entrant.keep,
        samples_per_s=speed,
        over_stock=speed / speeds[STOCK] if STOCK in speeds else None,
        over_unpruned=speed / speeds[UNPRUNED] if UNPRUNED in speeds else None,
        operations=sum(stage.operations for stage in stages.values()),
        bytes=sum(stage.bytes for stage in stages.values()),
        limit_ms=limit_ms,
        limit_share=limit_ms / ms,
        prune_share=times["prune_ms"] / ms,
        padding_share=1 - sum(one.positions for one in whole.counts) / sum(one.padded for one in whole.counts),
        peak_bytes=max(each.peak for each in turns),
        **times,
        other_ms=ms - sum(times.values()),
        cpu_ms=1000 * statistics.median(each.cpu_seconds for each in turns) / samples,
        prompt_tokens=sum(one.positions for one in whole.counts) / samples,
        kept_tokens=sum(one.kept for one in whole.counts) / samples,
        output_tokens=sum(one.outputs for one in whole.counts) / samples,
        at_once=whole.at_once,
        rounds=[each.samples_per_s for each in turns],
        stages=stages,
    )


def table(rows: Sequence[SpeedRow]) -> str:
    """A line for each row. Times are milliseconds of a sample, shares are in %."""
    columns = {"": "<18", "samples/s": "10.3g", "x stock": "9.2f", "x none": "8.2f", "limit %": "9.1f"}
    columns |= {"encode": "9.1f", "prune": "8.1f", "prefill": "9.1f", "decode": "9.1f", "other": "8.1f", "cpu": "9.1f"}
    columns |= {"prune %": "9.1f", "padding %": "11.1f", "GFLOP": "9.1f", "GB": "8.2f", "peak GiB": "10.2f"}
    cells = [
        (row.name, row.samples_per_s, _or_blank(row.over_stock), _or_blank(row.over_unpruned), 100 * row.limit_share,
         row.encode_ms, row.prune_ms, row.prefill_ms, row.decode_ms, row.other_ms, row.cpu_ms, 100 * row.prune_share,
         100 * row.padding_share, row.operations / 1e9, row.bytes / 1e9, row.peak_bytes / 2**30)
        for row in rows
    ]  # fmt: skip
    return text_table(columns, cells)


def _or_blank(ratio: float | None) -> float | str:
    return "" if ratio is None else ratio
