"""Two outputs side by side: the answers to the same rows, and the cost. One output's answers are held as digests, 16
bytes per id and 8 per answer; the other's are streamed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from adafv.pipeline.outputs.ledger import DIGEST, digest_labels
from adafv.pipeline.outputs.reader import read_labels
from adafv.pipeline.record.run_record import format_table
from adafv.pipeline.store.storage import Storage
from adafv.reporting.report import Report

EXAMPLES = 10


@dataclass
class OutputComparison:
    """Compares two outputs, `first` and `second`.

    Attributes:
        both: ids that both have labelled.
        changed: those of them with different answers.
        examples: some of these: id, question and the second answer.
    """

    first: Report
    second: Report
    both: int = 0
    changed: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def agreement(self) -> float | None:
        """The share of the common ids with the same answer."""
        return 1 - self.changed / self.both if self.both else None

    @property
    def speed_ratio(self) -> float | None:
        """Gpu-seconds per sample of the first, divided by those of the second."""
        one, other = (_seconds_a_sample(report) for report in (self.first, self.second))
        return one / other if one and other else None

    def as_json(self) -> dict[str, Any]:
        return {
            "both": self.both,
            "changed": self.changed,
            "agreement": self.agreement,
            "only_first": self.first.labelled - self.both,
            "only_second": self.second.labelled - self.both,
            "gpu_seconds_ratio": self.speed_ratio,
            "examples": self.examples,
            "second": self.second.as_json(),
        }


def compare(first: Report, second: Report, storage: Storage | None = None) -> OutputComparison:
    """Answers are the same if they are equal as written."""
    storage = storage or Storage.from_environment()
    known = _answers(first.uri, storage)
    comparison = OutputComparison(first, second)
    for batch in read_labels(second.uri, ["id", "question", "answer"], storage):
        ids, answers = np.frombuffer(digest_labels(batch), DIGEST), _digests(batch)
        at = np.searchsorted(known["id"], ids).clip(max=max(len(known) - 1, 0))
        if not len(known):
            continue
        there = known["id"][at] == ids
        changed = there & (known["answer"][at] != answers)
        comparison.both += int(there.sum())
        comparison.changed += int(changed.sum())
        wanted = EXAMPLES - len(comparison.examples)
        comparison.examples += batch.take(pa.array(np.flatnonzero(changed)[:wanted])).to_pylist()
    return comparison


def _answers(uri: str | os.PathLike[str], storage: Storage) -> np.ndarray:
    """The digests of ids and answers, sorted by id."""
    parts = [np.empty(0, dtype=[("id", DIGEST), ("answer", np.uint64)])]
    for batch in read_labels(uri, ["id", "answer"], storage):
        part = np.empty(batch.num_rows, dtype=parts[0].dtype)
        part["id"], part["answer"] = np.frombuffer(digest_labels(batch), DIGEST), _digests(batch)
        parts.append(part)
    known = np.concatenate(parts)
    return known[np.argsort(known["id"], kind="stable")]


def _digests(batch: pa.RecordBatch) -> np.ndarray:
    """uint64 [N], of the answers."""
    answers = batch.column("answer").to_pylist()
    return np.frombuffer(
        b"".join(blake2b((each or "").encode(), digest_size=8).digest() for each in answers), np.uint64
    )


def _seconds_a_sample(report: Report) -> float | None:
    """Of a worker. Without audited rows, whose times are two prompts', and reused labels, which took none."""
    once = [part for (_, audited), part in report.labels.worked.items() if not audited]
    rows = sum(part.rows for part in once)
    return sum(part.gpu_seconds for part in once) / rows if rows else None


def comparison_table(comparison: OutputComparison) -> str:
    first, second = comparison.first, comparison.second
    agreement, ratio = comparison.agreement, comparison.speed_ratio
    lines = [
        ("labelled by both", f"{comparison.both:,}"),
        ("answers changed", f"{comparison.changed:,}" + ("" if agreement is None else f" ({1 - agreement:.2%})")),
        ("worker ms per sample", f"{_ms(first)} -> {_ms(second)}" + ("" if ratio is None else f" ({ratio:.2f}x)")),
        ("USD per 1,000 samples", f"{_usd(first)} -> {_usd(second)}"),
    ]
    return format_table(f"{first.uri} -> {second.uri}", lines)


def _ms(report: Report) -> str:
    seconds = _seconds_a_sample(report)
    return "-" if seconds is None else f"{1000 * seconds:,.1f}"


def _usd(report: Report) -> str:
    if report.cost is None or report.cost_per_1000 is None:
        return "-"
    return f"{'' if report.cost.exact else 'at least '}{report.cost_per_1000:,.4f}"
