"""The table that samples travel in, from the CPU stage to the GPU stage.

Pixels stay uint8 all the way: a float tensor of the same crops would be four times the traffic between processes, and
normalising is next to nothing on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row

if TYPE_CHECKING:
    from adafv.engine import Sample

# What comes before the sample's own columns; `error` is null where there is a sample.
PASSED_ON = ("id", "image", "question", "prompt", "fetch_ms", "error", "message")

SCHEMA = pa.schema(
    [
        *(rows.SCHEMA.field(name) for name in PASSED_ON),
        ("preprocess_ms", pa.float64()),
        ("crops", pa.large_binary()),
        ("crops_shape", pa.list_(pa.int32())),
        ("image_size", pa.list_(pa.int32())),
        ("image_key", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("question_span", pa.list_(pa.int32())),
        ("visual_tokens", pa.int32()),
    ]
)


def to_table(entries: Iterable[tuple[Row, Sample | None, float]]) -> pa.Table:
    """Rows with their samples, or None for rejects, and the milliseconds that each took."""
    return pa.Table.from_pylist([_to_dict(*entry) for entry in entries], schema=SCHEMA)


def _to_dict(row: Row, sample: Sample | None, milliseconds: float) -> dict[str, Any]:
    values = {name: value for name, value in rows.to_dict(row).items() if name in PASSED_ON}
    values["preprocess_ms"] = milliseconds
    if sample is None:
        return values
    return values | {
        "crops": sample.crops.tobytes(),
        "crops_shape": sample.crops.shape,
        "image_size": sample.image_size,
        "image_key": sample.image_key,
        "input_ids": sample.input_ids,
        "question_span": sample.question_span,
        "visual_tokens": sample.visual_tokens,
    }


def samples_of(table: pa.Table) -> list[Sample]:
    """The samples in the rows of a table of `SCHEMA`, none of them a reject. Crops are views of the table's memory."""
    from adafv.engine import Sample

    crops = [value.as_buffer() for value in table.column("crops")]
    small = table.drop_columns(["crops", "message"]).to_pylist()
    return [
        Sample(
            id=values["id"],
            crops=np.frombuffer(buffer, np.uint8).reshape(values["crops_shape"]),
            image_size=(values["image_size"][0], values["image_size"][1]),
            image_key=values["image_key"],
            input_ids=np.array(values["input_ids"], np.int32),
            question_span=(values["question_span"][0], values["question_span"][1]),
            visual_tokens=values["visual_tokens"],
        )
        for buffer, values in zip(crops, small, strict=True)
    ]
