"""Thumbnails, decoded and scaled in a child process, since image data is untrusted."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa

from adafv.pipeline.images.decode import decode
from adafv.pipeline.isolation import Handler
from adafv.pipeline.rejects import Reject
from adafv.reporting.drawing import Picture

WIDTH, HEIGHT = 480, 720  # pixels, at most
QUALITY = 78  # of JPEG
SCHEMA = pa.schema(
    [("data", pa.binary()), ("width", pa.int32()), ("height", pa.int32()), ("reason", pa.string())]
)  # fmt: skip


class Thumbnails(Handler):
    """The work in the child process: a table with one image in, one of `SCHEMA` out."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        [data] = table.column("data").to_pylist()
        image = decode(data, self._max_pixels)
        if isinstance(image, Reject):
            return pa.Table.from_pylist([{"reason": image.message}], schema=SCHEMA)
        image.thumbnail((WIDTH, HEIGHT))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
        small = {"data": buffer.getvalue(), "width": image.width, "height": image.height}
        return pa.Table.from_pylist([small], schema=SCHEMA)


def picture_of(answer: pa.Table) -> Picture | str:
    """The image in a table of `SCHEMA`, or why there is none."""
    [row] = answer.to_pylist()
    return row["reason"] or Picture(row["data"], row["width"], row["height"])
