"""Sums and bins of labels are those of the rows, whatever the batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.schema import LABELS
from adafv.reporting.labels import BINS, DECADES, PER_DECADE, RATIOS, LabelFigures
from tests.reporting.outputs import label


def batch(rows: list[dict]) -> pa.RecordBatch:
    found = pa.RecordBatch.from_pylist(rows, schema=LABELS)
    return found.append_column("file", pa.array(["f"] * len(rows))).append_column("row", pa.array(range(len(rows))))


FIGURES = st.fixed_dictionaries(
    {
        "mean_logprob": st.floats(-5, 0, width=32),
        "gpu_seconds": st.floats(0, 1e5),
        "kept_tokens": st.integers(0, 50),
        "visual_tokens": st.integers(0, 50),
        "from_text": st.one_of(st.none(), st.integers(0, 50)),
        "from_saliency": st.integers(0, 50),
        "strategy": st.sampled_from(["a", "b"]),
    }
)


@given(st.lists(FIGURES, max_size=30), st.integers(1, 7))
def test_bins_and_sums(values, size):
    rows = [label(f"{n}") | each for n, each in enumerate(values)]
    figures = LabelFigures(batch(rows[start : start + size]) for start in range(0, len(rows), size))
    confidence, latency = np.zeros(BINS), np.zeros(PER_DECADE * (DECADES[1] - DECADES[0]))
    split = np.zeros((RATIOS, BINS))
    for each in values:
        confidence[min(int(np.exp(np.float64(each["mean_logprob"])) * BINS), BINS - 1)] += 1
        place = (np.log10(max(each["gpu_seconds"], 10.0 ** DECADES[0])) - DECADES[0]) / (DECADES[1] - DECADES[0])
        latency[min(int(place * len(latency)), len(latency) - 1)] += each["gpu_seconds"] > 0  # others are reused
        picks = (each["from_text"] or 0) + each["from_saliency"]
        if each["from_text"] is not None and picks and each["visual_tokens"]:
            ratio = min(int(each["kept_tokens"] / each["visual_tokens"] * RATIOS), RATIOS - 1)
            split[ratio, min(int(each["from_text"] / picks * BINS), BINS - 1)] += 1
    assert (figures.confidence == confidence).all() and (figures.split == split).all()
    assert (figures.latency == latency).all()
    assert figures.rows == len(values) and figures.totals["kept_tokens"] == sum(each["kept_tokens"] for each in values)
    for name, part in figures.strategies.items():
        seconds = [each["gpu_seconds"] for each in values if each["strategy"] == name]
        assert part.rows == len(seconds) and np.isclose(part.gpu_seconds, sum(seconds))
