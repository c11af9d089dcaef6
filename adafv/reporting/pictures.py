"""Finds the first image of each of a few rows again, where the job found it (`RunInput`), as a thumbnail.

Images are decoded in a child process, as in the job. Whatever goes wrong concerns that image only: a sentence then says
why there is none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from adafv.pipeline.errors import JobError
from adafv.pipeline.images.decode import memory_bound
from adafv.pipeline.images.run_input import MAX_BYTES, Access, RunInput, Wanted
from adafv.pipeline.isolation import Isolated, StartError, run_isolated
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.sources.units import READ_ERRORS
from adafv.reporting.drawing import Picture
from adafv.reporting.thumbnails import Thumbnails, picture_of

__all__ = ["Access", "Found", "find_pictures"]

SECONDS = 60.0  # to find all images
MAX_PIXELS = 40_000_000  # less than in a job: a report has less memory
DECODING = 20.0  # seconds for one image

Found = Picture | str  # an image, or why there is none


def find_pictures(
    rows: Sequence[Mapping[str, Any]], configs: Mapping[str, Mapping[str, Any]], access: Access
) -> dict[str, Found]:
    """The images of `rows` by id.

    Args:
        rows: labels or rejects, with `id`, `image`, `image_uri` and `run_id`.
        configs: the options of each run, by name.
    """
    end = time.monotonic() + SECONDS
    found: dict[str, Found] = {}
    memory = memory_bound(MAX_PIXELS, MAX_BYTES)
    process = Isolated(partial(Thumbnails, MAX_PIXELS), DECODING, memory)
    try:
        for run_id in dict.fromkeys(row["run_id"] for row in rows):
            own = [row for row in rows if row["run_id"] == run_id]
            wanted = [Wanted(row["id"], row["image"] or "", row.get("image_uri")) for row in own]
            for id, data in _images(wanted, configs.get(run_id, {}), access, end):
                found[id] = data if isinstance(data, str) else _small(process, data)
    finally:
        process.close()
    return found


def _small(process: Isolated, data: bytes) -> Found:
    try:
        answers, failures = run_isolated(process, pa.table({"data": pa.array([data], pa.large_binary())}))
    except StartError as error:
        return f"no process to decode it: {safe_message(str(error))}"
    return safe_message(failures[0].message) if failures else picture_of(answers[0])


def _images(
    wanted: Sequence[Wanted], config: Mapping[str, Any], access: Access, end: float
) -> Iterator[tuple[str, bytes | str]]:
    """The encoded images of a run's rows, by row id."""
    try:
        source = RunInput.of(config, access)
    except (JobError, *READ_ERRORS) as error:
        yield from ((row.id, safe_message(str(error))) for row in wanted)
        return
    left = {row.id: row for row in wanted}
    for row in wanted:
        if time.monotonic() > end:
            break
        found = source.place_of(row)
        if found is not None:
            yield row.id, source.fetch(*found)
            del left[row.id]
    for id, data in source.look_for(left, end):
        yield id, data
        del left[id]
    reason = f"not found in {SECONDS:.0f} s" if time.monotonic() > end else "the input has no row with this id any more"
    yield from ((id, reason) for id in left)
