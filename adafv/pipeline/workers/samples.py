"""The table that samples travel in, from the CPU stage to the GPU stage. Pixels stay uint8: floats would be four
times the traffic, and normalising costs little on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row

if TYPE_CHECKING:
    from adafv.engine import PreparedImage, Sample

# The row's columns, before the sample's own; `error` is null if there is a sample.
PASSED_ON = (
    *("id", "image", "image_uri", "question", "prompt", "stratum", "choices", "carried"),
    *("fetch_ms", "error", "message"),
)
NAMES = "names"  # and places of the row's images

PICTURE = pa.struct(
    [
        ("crops", pa.large_binary()),
        ("shape", pa.list_(pa.int32())),
        ("size", pa.list_(pa.int32())),
        ("key", pa.string()),
        ("visual_tokens", pa.int32()),
        ("whole", pa.list_(pa.int32())),
    ]
)

SCHEMA = pa.schema(
    [
        *(rows.SCHEMA.field(name) for name in PASSED_ON),
        ("preprocess_ms", pa.float64()),
        (NAMES, pa.list_(pa.struct([("image", pa.string()), ("uri", pa.string())]))),
        ("pictures", pa.list_(PICTURE)),
        ("input_ids", pa.list_(pa.int32())),
        ("question_places", pa.list_(pa.int32())),
        ("fits_unpruned", pa.bool_()),
    ]
)


def to_table(entries: Iterable[tuple[Row, Sample | None, float]]) -> pa.Table:
    """Rows with their samples, None for rejects, and the milliseconds that each took."""
    return pa.Table.from_pylist([_to_dict(*entry) for entry in entries], schema=SCHEMA)


def _to_dict(row: Row, sample: Sample | None, milliseconds: float) -> dict[str, Any]:
    values = {name: value for name, value in rows.to_dict(row).items() if name in PASSED_ON}
    values["preprocess_ms"] = milliseconds
    if sample is None:
        return values
    return values | {
        NAMES: [{"image": image.name, "uri": image.place} for image in row.images],
        "pictures": [_image_to_dict(image) for image in sample.images],
        "input_ids": sample.input_ids,
        "question_places": sample.question_places,
        "fits_unpruned": sample.fits_unpruned,
    }


def _image_to_dict(image: PreparedImage) -> dict[str, Any]:
    return {
        "crops": image.crops.tobytes(),
        "shape": image.crops.shape,
        "size": image.size,
        "key": image.key,
        "visual_tokens": image.visual_tokens,
        "whole": image.whole,
    }


def samples_of(table: pa.Table) -> list[Sample]:
    """The samples of a table of `SCHEMA` without rejects. Crops are views of its memory."""
    from adafv.engine import Sample

    images = [tuple(map(_image, each.values)) for each in table.column("pictures")]
    small = table.select(["id", "input_ids", "question_places", "stratum", "choices", "fits_unpruned"]).to_pylist()
    return [
        Sample(
            id=values["id"],
            images=shown,
            input_ids=np.array(values["input_ids"], np.int32),
            question_places=np.array(values["question_places"], np.int32),
            stratum=values["stratum"],
            choices=tuple(values["choices"]),
            fits_unpruned=values["fits_unpruned"],
        )
        for shown, values in zip(images, small, strict=True)
    ]


def _image(scalar: pa.StructScalar) -> PreparedImage:
    from adafv.engine import PreparedImage

    size, whole = tuple(scalar["size"].as_py()), tuple(scalar["whole"].as_py())
    crops = np.frombuffer(scalar["crops"].as_buffer(), np.uint8).reshape(scalar["shape"].as_py())
    key, visual_tokens = scalar["key"].as_py(), scalar["visual_tokens"].as_py()
    return PreparedImage(crops=crops, size=size, key=key, visual_tokens=visual_tokens, whole=whole)
