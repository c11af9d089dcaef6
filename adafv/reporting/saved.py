"""What pruning saved, compared with the same work without it.

**Measured** if there are labels made without pruning (`none`), in the output or the one it is compared with: worker
seconds per sample against each other, without audited rows, whose times are two prompts', and reused labels, which
took none.

**Estimated** otherwise. Encoding takes the same time, and without pruning nothing is selected. Prefill time scales with
floating-point operations, since many positions go through the model at once; decoding with the bytes read, weights and
the keys and values of earlier positions. Both are counted from the model's sizes (`adafv.counting`) at the labels' mean
lengths, and scale the measured times, without reused labels. Restored newline embeddings are not counted. There is no
estimate if rows had second looks, whose labels count the second look's tokens only, with an audit, or for small models,
whose time is overhead.
docs/report.md compares estimates with measurements.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from adafv.counting import Model, Sizes, TokenCounts
from adafv.reporting.labels import LabelFigures, Subtotal

UNPRUNED = "none"
LEAST_WEIGHTS = 50_000_000  # of a language model dominated by matrix products


@dataclass(frozen=True)
class Saved:
    """Worker seconds per sample, pruned and unpruned.

    Attributes:
        how: `measured` or `estimated`.
        samples: labelled with pruning, and not reused.
    """

    how: str
    samples: int
    pruned_seconds: float
    unpruned_seconds: float

    @property
    def ratio(self) -> float:
        """Unpruned time divided by pruned time."""
        return self.unpruned_seconds / self.pruned_seconds

    @property
    def seconds(self) -> float:
        """Saved by all samples together; negative if pruning took longer."""
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
    """The savings of one output, measured if possible. `sizes`: of its runs' models; an estimate needs all equal."""
    return measured(labels, labels) or _estimated(labels, sizes)


def measured(pruned: LabelFigures, unpruned: LabelFigures) -> Saved | None:
    """The pruned labels of one output against the unpruned ones of the other; None if either has none."""
    ours, theirs, audited = Subtotal(), unpruned.worked.get((UNPRUNED, False), Subtotal()), 0
    for (strategy, twice), part in pruned.worked.items():
        if strategy != UNPRUNED and twice:
            audited += part.rows
        elif strategy != UNPRUNED:
            ours.add(part.rows, part.gpu_seconds)
    if not ours.rows or not theirs.rows:
        return None
    return Saved("measured", ours.rows + audited, ours.gpu_seconds / ours.rows, theirs.gpu_seconds / theirs.rows)


def _estimated(labels: LabelFigures, sizes: Collection[Sizes | None]) -> Saved | None:
    """For an output whose labels are all pruned."""
    [model] = set(sizes) if len(set(sizes)) == 1 else [None]
    if model is None or model.language_weights < LEAST_WEIGHTS:
        return None
    if UNPRUNED in labels.strategies or not labels.totals["gpu_seconds"] or labels.second_looks.rows:
        return None
    worked = sum(part.rows for part in labels.worked.values())  # reused labels took no time, in no batch
    rows = {name: labels.rows if name.endswith("_tokens") else worked for name in labels.totals}
    mean = {name: total / rows[name] for name, total in labels.totals.items()}
    dropped = mean["visual_tokens"] - mean["kept_tokens"]
    batch, outputs = max(1, round(mean["batch_size"])), round(mean["output_tokens"])
    prefill, decode = ratios(model, mean["prompt_tokens"], mean["prompt_tokens"] + dropped, batch, outputs)
    more = (prefill - 1) * mean["prefill_ms"] + (decode - 1) * mean["decode_ms"] - mean["prune_ms"]
    return Saved("estimated", worked, mean["gpu_seconds"], mean["gpu_seconds"] + more / 1000)


def ratios(sizes: Sizes, pruned: float, unpruned: float, batch: int, outputs: int) -> tuple[float, float]:
    """Unpruned prefill operations divided by pruned ones, and the same for the bytes that decoding reads; `pruned`
    and `unpruned` are prompt lengths."""
    model, outputs = Model(sizes, item=1), max(2, outputs)  # prefill gives the first
    short, long = (
        [TokenCounts(positions=round(length), padded=round(length), outputs=outputs, visual=0, kept=0, words=0)] * batch
        for length in (pruned, unpruned)
    )
    prefill = model.prefill(long).operations / model.prefill(short).operations
    return prefill, model.decode(long).bytes / model.decode(short).bytes
