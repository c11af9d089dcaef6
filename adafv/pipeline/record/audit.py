"""How far a run's audited rows agree with the unpruned model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bounds import DRAWS, Bounds, Estimate

MOST = 200_000_000  # weights for an interval: with many images, fewer draws do


@dataclass
class Audit:
    """The audited rows so far.

    Attributes:
        measure: a name from `AGREEMENTS`.
        rows: how many; `agreement`: the sum of their agreements, each from 0 to 1.
    """

    measure: str = "normalised"
    rows: int = 0
    agreement: float = 0.0
    _images: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, labels: pa.Table) -> None:
        """Count the labels that were audited."""
        columns = labels.select(["image", "images", "answer", "audit_answer"])
        for row in columns.filter(columns.column("audit_answer").is_valid()).to_pylist():
            agrees = AGREEMENTS[self.measure](row["answer"], row["audit_answer"])
            self.rows, self.agreement = self.rows + 1, self.agreement + agrees
            self._images[first_image(row)].append(agrees)

    def estimate(self) -> Estimate | None:
        """The agreement and its 95 % interval, clustered by image; None if nothing was audited."""
        if not self.rows:
            return None
        images = [(image, list(values)) for image, values in list(self._images.items())]
        values = np.array([value for _, some in images for value in some])
        clusters = [image for image, some in images for _ in some]
        draws = max(200, min(DRAWS, MOST // (len(images) + 1)))
        return Bounds(clusters, 0, draws).mean(values, np.ones(len(values), dtype=bool))

    def as_json(self) -> dict[str, Any] | None:
        found = self.estimate()
        if found is None:
            return None
        return {
            "rows": self.rows,
            "measure": self.measure,
            "agreement": round(found.value, 6),
            "low": round(found.low, 6),
            "high": round(found.high, 6),
        }


def first_image(label: Mapping[str, Any]) -> str:
    """What tells images apart, given the columns `image` and `images`: pixels, since rows of a table may each hold the
    same image, named after the row. In old labels it is the name."""
    first = next(iter(label["images"] or ()), None)
    return (first and first["key"]) or label["image"]
