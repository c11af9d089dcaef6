"""The CPU stage: decode an image, cut it into crops and tokenise its prompt; and the table that samples travel in.

Pixels stay uint8 all the way: a float tensor of the same crops would be four times the traffic between processes, and
normalising is next to nothing on the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from adafv.pipeline.images.decode import decode
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row
from adafv.pipeline.storage import Storage
from adafv.pipeline.workers.model import resolve_model

if TYPE_CHECKING:
    from adafv.engine import EngineOptions, Preparer, Sample

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


@dataclass(frozen=True)
class Preparation:
    """The stage, as it is sent to the tasks; each process loads the processor once."""

    model: str
    engine: EngineOptions
    storage: Storage
    max_pixels: int

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows with bytes in, samples or rejects out."""
        preparer = load_preparer(self.model, self.engine, self.storage)
        return pa.Table.from_pylist(list(self.prepare(preparer, rows.from_table(table))), schema=SCHEMA)

    def prepare(self, preparer: Preparer, given: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """One dictionary by column of `SCHEMA` for each row. Neighbours that share an image share its decoding."""
        data: bytes | None = None
        image: Image.Image | Reject | None = None
        for row in given:
            start = time.perf_counter()
            if row.reject is None:
                if image is None or row.image_bytes != data:
                    data, image = row.image_bytes, decode(row.image_bytes or b"", self.max_pixels)
                sample = image if isinstance(image, Reject) else _sample(preparer, row, image)
            else:
                sample = row.reject
            row = row.rejected(sample) if isinstance(sample, Reject) else row
            columns = {} if isinstance(sample, Reject) else _columns(sample)
            values = {name: value for name, value in rows.to_dict(row).items() if name in PASSED_ON}
            yield values | {"preprocess_ms": 1000 * (time.perf_counter() - start)} | columns


@lru_cache(maxsize=2)
def load_preparer(model: str, engine: EngineOptions, storage: Storage) -> Preparer:
    from adafv.engine import Preparer

    return Preparer.load(resolve_model(model, storage), engine)


def _sample(preparer: Preparer, row: Row, image: Image.Image) -> Sample | Reject:
    from adafv.engine import PrepareError

    try:
        return preparer.prepare(row.id or "", image, row.prompt or "")
    except PrepareError as error:
        return Reject(error.error, str(error))
    except Exception as error:  # the model's own processor, on pictures of any shape: it may throw anything
        return Reject("image_unsupported", f"{image.width} x {image.height}: {type(error).__name__}: {error}")


def _columns(sample: Sample) -> dict[str, Any]:
    return {
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
