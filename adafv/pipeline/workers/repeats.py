"""Reuses labels for rows that repeat another row's images and prompt (`--duplicates reuse`).

A run's labels are kept in an actor on the driver's node, which is lost only with the run, so all workers share them. A
sample that two workers get at the same time is labelled twice.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from adafv.pipeline import schema
from adafv.pipeline.workers.samples import NAMES

MOST = 2**29  # bytes of labels to keep; one takes about 2 KB
# A copy costs nothing, and its worker may have no model yet.
FREE = {
    **dict.fromkeys(("encode_ms", "prune_ms", "prefill_ms", "decode_ms", "gpu_seconds"), 0.0),
    **dict.fromkeys(("batch_size", "audit_answer", "worker_device", "worker_instance", "worker_attention")),
    **dict.fromkeys(f"worker_{step}_s" for step in schema.STARTING),
}

Result = dict[str, Any]  # a row of `schema.RESULTS`


class LabelMemory:
    """The last labels, up to `most` bytes, by their samples' digests. Least recently used labels are dropped first."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._bytes = most, 0
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def find(self, digests: Sequence[str]) -> dict[str, bytes]:
        """The known labels, pickled."""
        found = {digest: self._held[digest] for digest in digests if digest in self._held}
        for digest in found:
            self._held.move_to_end(digest)
        return found

    def add(self, labels: Mapping[str, bytes]) -> None:
        for digest, label in labels.items():
            self._bytes += len(label) - len(self._held.pop(digest, b""))
            self._held[digest] = label
        while self._bytes > self._most:
            self._bytes -= len(self._held.popitem(last=False)[1])


class KnownLabels:
    """A `LabelMemory` that all workers share. Made in the driver and sent to them. Needs an initialised Ray."""

    def __init__(self) -> None:
        from adafv.pipeline.control.session import driver_actor

        self._actor = driver_actor(LabelMemory)

    def find(self, digests: Sequence[str]) -> dict[str, bytes]:
        import ray

        try:
            return ray.get(self._actor.find.remote(digests))
        except ray.exceptions.RayError:  # it has died: what it knew is labelled again
            return {}

    def add(self, labels: Mapping[str, bytes]) -> None:
        self._actor.add.remote(labels)


class Repeats:
    """A table of samples, split into those to label and those that repeat others.

    Attributes:
        new: the rows to label, each distinct sample once.
    """

    def __init__(self, samples: pa.Table, known: KnownLabels | LabelMemory) -> None:
        self._samples, self._known = samples, known
        self._digests = digests_of(samples)
        self._found: dict[str, Result] = {
            digest: pickle.loads(label) for digest, label in known.find([*dict.fromkeys(self._digests)]).items()
        }
        first: dict[str, int] = {}
        for row, digest in enumerate(self._digests):
            first.setdefault(digest, row)
        self._new = {row: digest for digest, row in first.items() if digest not in self._found}
        self.new: pa.Table = samples.take(pa.array([*self._new], pa.int64()))

    def copies(self, results: Sequence[pa.Table], carried: Sequence[str]) -> list[Result]:
        """The results of the repeating rows, given those of the new ones, which are remembered.

        Args:
            carried: columns of the input that labels have.
        """
        by_id = {row["id"]: row for table in results for row in table.to_pylist()}
        ids = self._samples.column("id").to_pylist()
        made = {digest: by_id[ids[row]] for row, digest in self._new.items()}
        self._known.add({digest: pickle.dumps(row) for digest, row in made.items() if row["error"] is None})
        known = self._found | made
        own = self._samples.select([*OWN, NAMES, "carried"]).to_pylist()
        return [
            _copied(known[digest], row, carried)
            for number, (digest, row) in enumerate(zip(self._digests, own, strict=True))
            if number not in self._new
        ]


OWN = ("id", "image", "image_uri", "question", "prompt", "fetch_ms", "preprocess_ms")  # a copy's own columns


def _copied(result: Result, row: Mapping[str, Any], carried: Sequence[str]) -> Result:
    """Another row's result, with the same images and prompt, as this row's."""
    if result["id"] == row["id"]:  # its own, from a worker that died before delivering it
        return result
    own = {name: row[name] for name in OWN}
    if result["error"] is not None:
        return own | {"error": result["error"], "message": result["message"]}
    own |= dict(zip(carried, row["carried"], strict=True))
    images = [image | named for image, named in zip(result["images"], row[NAMES], strict=True)]
    cost = {"cost_usd": None if result["cost_usd"] is None else 0.0, "labelled_at": datetime.now(UTC)}
    return result | own | FREE | cost | {"images": images, schema.DUPLICATE.name: result["id"]}


def digests_of(samples: pa.Table) -> list[str]:
    """A text for each row of a table of samples, equal for the same images and prompt."""
    said = samples.select(["input_ids", "question_places", "choices", "stratum"]).to_pylist()
    pictures = [one.values for one in samples.column("pictures")]
    keys = [[each.field(name).to_pylist() for name in ("key", "whole")] for each in pictures]
    return [
        hashlib.blake2b(repr((shown, *row.values())).encode(), digest_size=16).hexdigest()
        for shown, row in zip(keys, said, strict=True)
    ]
