"""The CPU stage: decode a row's images, cut them into crops and tokenise its prompt.

Decoders are C code that reads untrusted data, so this runs in a child process (`isolation`) with limits on time and
memory: a bad image costs only itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from adafv.pipeline.images.decode import decode, memory_bound
from adafv.pipeline.isolation import Handler, Isolated, run_isolated
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers import samples
from adafv.pipeline.workers.model import resolve_model, resolve_text_tower

if TYPE_CHECKING:
    from adafv.engine import EngineOptions, Preparer, Sample
    from adafv.pipeline.options import JobOptions

SPARE_MEMORY = 2**30  # bytes beyond decoding: the encoded image, the crops, the tokenizer


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The stage, as sent to the tasks.

    Attributes:
        max_pixels, max_bytes: for a row's images together; rows with more are rejected.
        timeout: seconds per row.
        handler: makes the handler that does the work; tests may replace it.
    """

    model: str
    engine: EngineOptions
    storage: Storage
    max_pixels: int
    max_bytes: int
    timeout: float
    handler: Callable[[Preparation], Handler]

    @classmethod
    def of(cls, options: JobOptions, **others: Any) -> Preparation:
        """With the limits of `options`, which don't travel themselves: Ray shows what a stage holds."""
        return cls(
            max_pixels=options.max_image_pixels,
            max_bytes=options.max_image_bytes,
            timeout=options.image_timeout,
            **others,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows with image bytes in (`rows.SCHEMA`), samples or rejects out (`samples.SCHEMA`)."""
        good = table.filter(pc.is_null(table.column("error")))
        rejected = rows.from_table(table.filter(pc.is_valid(table.column("error"))))
        answers, failures = run_isolated(_process(self), good) if good.num_rows else ([], {})
        for number, failure in failures.items():
            [row] = rows.from_table(good.slice(number, 1))
            rejected.append(row.rejected(Reject("prepare_died", failure.message)))
        return pa.concat_tables([*answers, samples.to_table((row, None, 0.0) for row in rejected)])


@lru_cache(maxsize=1)
def _process(preparation: Preparation) -> Isolated:
    """This process's child, kept between tasks."""
    memory = memory_bound(preparation.max_pixels, preparation.max_bytes) + SPARE_MEMORY
    return Isolated(partial(preparation.handler, preparation), preparation.timeout, memory)


class Preparing(Handler):
    """The work in the child process. Adjacent rows with the same images decode them once."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparer = load_preparer(preparation.model, preparation.engine, preparation.storage)
        self._max_pixels = preparation.max_pixels
        self._known: dict[bytes, Image.Image | Reject] = {}  # of the last row

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        prepared = []
        for number in range(table.num_rows):  # one at a time: the encoded images may be large
            [row] = rows.from_table(table.slice(number, 1))
            prepared.append(self._prepare(row, on_progress))
        return samples.to_table(prepared)

    def _prepare(self, row: Row, on_progress: Callable[[], None]) -> tuple[Row, Sample | None, float]:
        start = time.perf_counter()
        images = self._decode(row, on_progress)
        sample = images if isinstance(images, Row) else _sample(self._preparer, row, images)
        on_progress()
        milliseconds = 1000 * (time.perf_counter() - start)
        if isinstance(sample, Row):
            return sample, None, milliseconds
        return row, sample, milliseconds

    def _decode(self, row: Row, on_progress: Callable[[], None]) -> list[Image.Image] | Row:
        """The row's images, or the row as a reject. All are in memory, so the limit is for all together."""
        data = [image.data or b"" for image in row.images]
        # Free the last row's other images first.
        self._known = {key: image for key, image in self._known.items() if key in data}
        pixels = self._max_pixels
        found = []
        for number, one in enumerate(data):
            if one not in self._known:
                self._known[one] = decode(one, pixels)
                on_progress()
            image = self._known[one]
            if isinstance(image, Reject):
                del self._known[one]  # alone it may fit
                return row.rejected_for(number, image)
            found.append(image)
            pixels -= image.width * image.height
            if pixels < 0:
                over = (
                    f"{self._max_pixels - pixels} pixels with those before it; the limit is {self._max_pixels} in all"
                )
                return row.rejected_for(number, Reject("image_too_many_pixels", over))
        return found


def load_preparer(model: str, engine: EngineOptions, storage: Storage) -> Preparer:
    from adafv.engine import Preparer

    return Preparer.load(
        resolve_model(model, storage, weights=False), resolve_text_tower(engine, storage, weights=False)
    )


def _sample(preparer: Preparer, row: Row, images: Sequence[Image.Image]) -> Sample | Row:
    from adafv.engine import PrepareError

    try:
        return preparer.converse(row.id or "", images, row.conversation, row.choices)
    except PrepareError as error:
        return row.rejected(Reject(error.error, str(error)))
    except Exception as error:  # the model's own processor may raise anything for odd shapes
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
        return row.rejected(Reject("image_unsupported", f"{sizes}: {type(error).__name__}: {error}"))
