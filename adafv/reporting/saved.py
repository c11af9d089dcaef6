"""What pruning saved, against the same work without it.

**Measured** where there are labels that were made without pruning (`none`), in the output itself or in the one that it
is compared with: seconds of a worker a sample against seconds a sample.

**Estimated** elsewhere. Encoding takes as long in any case, and without pruning nothing is selected. Prefill takes more
in proportion to its floating-point operations, as many positions go through the model at once; decoding in proportion
to the bytes that it reads, the weights and the keys and values of all positions before, as it does little with each.
Both are counted from the model's sizes (`adafv.counting`) at the labels' mean lengths, and scale the times that were
measured. Newline embeddings that come back unpruned are not counted. Nothing is estimated where rows were asked again:
labels count the tokens of the second look only. Of small models nothing is estimated: what they
take is overhead, which doesn't grow with counts. docs/report.md has estimates beside measurements.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from adafv.counting import Model, Sizes, TokenCounts
from adafv.reporting.labels import LabelFigures, Minute

UNPRUNED = "none"
LEAST_WEIGHTS = 50_000_000  # of a language model whose time is in its matrix products


@dataclass(frozen=True)
class Saved:
    """Seconds of a worker for a sample, pruned and unpruned.

    Attributes:
        how: `measured` or `estimated`.
        samples: that were labelled with pruning.
    """

    how: str
    samples: int
    pruned_seconds: float
    unpruned_seconds: float

    @property
    def ratio(self) -> float:
        """How many times as long a sample takes without pruning."""
        return self.unpruned_seconds / self.pruned_seconds

    @property
    def seconds(self) -> float:
        """Of all samples together; negative where pruning took longer."""
        return self.samples * (self.unpruned_seconds - self.pruned_seconds)

    def as_json(self) -> dict[str, Any]:
        return {
            "how": self.how,
            "samples": self.samples,
            "pruned_s_a_sample": self.pruned_seconds,
            "unpruned_s_a_sample": self.unpruned_seconds,
            "ratio": self.ratio,
            "seconds": self.seconds,
        }


def saved(labels: LabelFigures, sizes: Collection[Sizes | None]) -> Saved | None:
    """Of one output, measured if it can be. `sizes`: of its runs' models; an estimate needs all to be the same."""
    return measured(labels, labels) or _estimated(labels, sizes)


def measured(pruned: LabelFigures, unpruned: LabelFigures) -> Saved | None:
    """The pruned labels of the one against the unpruned ones of the other; None where either has none."""
    ours, theirs = Minute(), unpruned.strategies.get(UNPRUNED, Minute())
    for strategy, part in pruned.strategies.items():
        if strategy != UNPRUNED:
            ours.rows += part.rows
            ours.gpu_seconds += part.gpu_seconds
    if not ours.gpu_seconds or not theirs.gpu_seconds:
        return None
    return Saved("measured", ours.rows, ours.gpu_seconds / ours.rows, theirs.gpu_seconds / theirs.rows)


def _estimated(labels: LabelFigures, sizes: Collection[Sizes | None]) -> Saved | None:
    """Of an output whose labels are all pruned."""
    [model] = set(sizes) if len(set(sizes)) == 1 else [None]
    if model is None or model.language_weights < LEAST_WEIGHTS:
        return None
    if UNPRUNED in labels.strategies or not labels.totals["gpu_seconds"] or labels.second_looks.rows:
        return None
    mean = {name: total / labels.rows for name, total in labels.totals.items()}
    dropped = mean["visual_tokens"] - mean["kept_tokens"]
    batch, outputs = max(1, round(mean["batch_size"])), round(mean["output_tokens"])
    prefill, decode = ratios(model, mean["prompt_tokens"], mean["prompt_tokens"] + dropped, batch, outputs)
    more = (prefill - 1) * mean["prefill_ms"] + (decode - 1) * mean["decode_ms"] - mean["prune_ms"]
    return Saved("estimated", labels.rows, mean["gpu_seconds"], mean["gpu_seconds"] + more / 1000)


def ratios(sizes: Sizes, pruned: float, unpruned: float, batch: int, outputs: int) -> tuple[float, float]:
    """How many times as many operations prefill makes of prompts of the one length as of the other, and how many times
    as many bytes decoding reads.
    """
    model, outputs = Model(sizes, item=1), max(2, outputs)  # the first comes with prefill
    short, long = (
        [TokenCounts(positions=round(length), padded=round(length), outputs=outputs, visual=0, kept=0, words=0)] * batch
        for length in (pruned, unpruned)
    )
    prefill = model.prefill(long).operations / model.prefill(short).operations
    return prefill, model.decode(long).bytes / model.decode(short).bytes
