"""The formats: each writes the labels of an output as text, row by row, and says how many rows it wrote.

docs/export.md shows what comes out. In all of them a number that JSON doesn't know (NaN) is null, and text is written
as it is but for three characters that some take for the end of a line.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import adafv
from adafv.exporting.images import Images, Shown
from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST
from adafv.pipeline.outputs.reader import read_labels
from adafv.pipeline.store.storage import Storage

WHICH = ["image", "image_uri", "images"]  # columns that say which images a label is about
PLACEHOLDER = "<image>"  # where LLaVA's loader puts the image
# Columns that only make sense together, and are longer than all others.
LISTS = ("kept_indices", "kept_cues", "grid", "first_kept_indices")

Write = Callable[[str], object]


@dataclass(frozen=True)
class Labels:
    """The labels of the output at `uri`."""

    uri: str
    storage: Storage

    def batches(self, columns: list[str], whole: bool = False) -> Iterator[pa.RecordBatch]:
        """`whole`: with those that a job adds: the input's, and properties of answers."""
        return read_labels(self.uri, columns, self.storage, whole=whole)

    def singles(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Those of one image."""
        for batch in self.batches(list(dict.fromkeys([*columns, "images"]))):
            several = pc.not_equal(pc.list_value_length(batch.column("images")), 1)
            yield batch.filter(pc.invert(pc.fill_null(several, False)))  # null in old labels, which have one each

    def rows(self, columns: list[str], whole: bool = False) -> Iterator[dict[str, Any]]:
        return (row for batch in self.batches(columns, whole) for row in batch.to_pylist())


@dataclass(frozen=True)
class Exported:
    """How many rows were written, and how many were left out, and why."""

    rows: int
    left_out: int = 0
    reason: str = ""


MANY = "they are of no image or of several, and the format has one for each"


def jsonl(labels: Labels, images: Images, write: Write) -> Exported:
    """JSON lines: a label a line, with all columns but `LISTS`, and the properties of its answer."""
    count = 0
    columns = [name for name in schema.LABELS.names if name not in LISTS]
    for row in labels.rows(columns, whole=True):
        names = [images.relative(image) for image in Shown.of(row)]
        first = names[0] if names else row["image"]
        shown = row["images"] and [each | {"image": name} for each, name in zip(row["images"], names, strict=True)]
        shares = row["choice_probabilities"] and dict(row["choice_probabilities"])
        row |= {"image": first, "images": shown, "choice_probabilities": shares}
        ordered = {name: row.pop(name) for name in columns}  # in this order, whatever a file lacks
        write(as_json(ordered | row) + "\n")
        count += 1
    return Exported(count)


def llava(labels: Labels, images: Images, write: Write) -> Exported:
    """A conversation of one question and its answer for each label. Several images are a list, before the question.

    LLaVA's loader puts an image wherever a text says so, also in the midst of an answer: a row whose texts do is left
    out, as no other way of writing it would be the same text.
    """
    left_out = 0
    images = images.knowing(_shown(batch) for batch in labels.batches(WHICH))

    def entries() -> Iterator[str]:
        nonlocal left_out
        for row in labels.rows([*WHICH, "id", "prompt", "answer", "finish_reason"]):
            if PLACEHOLDER in row["prompt"] + row["answer"]:
                left_out += 1
                continue
            shown = [images.relative(image) for image in Shown.of(row)]
            turns = [("human", f"{PLACEHOLDER}\n" * len(shown) + row["prompt"]), ("gpt", row["answer"])]
            entry = {
                "id": row["id"],
                **({"image": shown[0] if len(shown) == 1 else shown} if shown else {}),
                "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
                "finish_reason": row["finish_reason"],
            }
            yield as_json(entry)

    count = write_list(entries(), write)
    return Exported(count, left_out, f"their text contains {PLACEHOLDER}, where LLaVA would put an image")


def coco_captions(labels: Labels, images: Images, write: Write) -> Exported:
    """COCO's captions: each distinct image once, each label as an annotation of its image. What is said of several
    images at once is a caption of none, and left out.

    The images are counted first, as digests: 16 bytes for each row. Then they are written, and then the annotations.
    """
    known = _Numbers(_digests(batch) for batch in labels.singles(WHICH))
    images = images.knowing(_shown(batch) for batch in labels.singles(WHICH))
    info = {
        "description": f"labels of {labels.uri}",
        "version": adafv.__version__,
        "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write('{"info": ' + as_json(info) + ',\n"licenses": [],\n"images": ')
    write_list(_coco_images(labels, images, known), write)
    write(',\n"annotations": ')
    count = write_list(_coco_annotations(labels, known), write)
    write("}\n")
    return Exported(count, _rows(labels) - count, MANY)


def _coco_images(labels: Labels, images: Images, known: _Numbers) -> Iterator[str]:
    written = 0
    for batch in labels.singles(WHICH):
        for number, image in zip(known.of(_digests(batch)), _shown(batch), strict=True):
            if number > written:  # numbers are given in the order in which the images are first seen
                written += 1
                yield as_json({"id": int(number), "file_name": images.relative(image)})


def _coco_annotations(labels: Labels, known: _Numbers) -> Iterator[str]:
    count = 0
    for batch in labels.singles([*WHICH, "id", "answer", "finish_reason"]):
        for number, row in zip(known.of(_digests(batch)), batch.to_pylist(), strict=True):
            count += 1
            annotation = {"id": count, "image_id": int(number), "caption": row["answer"]}
            yield as_json(annotation | {"label": row["id"], "finish_reason": row["finish_reason"]})


def _rows(labels: Labels) -> int:
    return sum(batch.num_rows for batch in labels.batches(["finish_reason"]))


class _Numbers:
    """A number from 1 on for each distinct digest, in the order in which they come."""

    def __init__(self, digests: Iterable[np.ndarray]) -> None:
        seen = np.concatenate([np.empty(0, DIGEST), *digests])
        self._sorted, first = np.unique(seen, return_index=True)
        self._numbers = np.empty(len(first), np.int64)
        self._numbers[np.argsort(first)] = np.arange(1, len(first) + 1)

    def of(self, digests: np.ndarray) -> np.ndarray:
        """int64 [N]: the numbers of the digests [N]."""
        at = np.searchsorted(self._sorted, digests)
        if (at == len(self._sorted)).any() or (self._sorted[at] != digests).any():
            raise UsageError("labels were added while they were read: export them when their run has ended")
        return self._numbers[at]


def _digests(batch: pa.RecordBatch) -> np.ndarray:
    """DIGEST [N], of the images."""
    return np.frombuffer(b"".join(image.identity for image in _shown(batch)), DIGEST)


def _shown(batch: pa.RecordBatch) -> list[Shown]:
    """The images of all the labels of a batch."""
    return [image for row in batch.select(WHICH).to_pylist() for image in Shown.of(row)]


def label_studio(labels: Labels, images: Images, write: Write) -> Exported:
    """Tasks with the answers as predictions, the least confident first. Those of several images, or of none, are left
    out.

    They are written to a file without a name beside which only a score and a place are kept, 12 bytes for each row, and
    copied from it in order.
    """
    columns = [*WHICH, "id", "prompt", "answer", "finish_reason", "mean_logprob", "model", "strategy", "run_id"]
    scores, places = [np.empty(0, np.float32)], [np.zeros(1, np.int64)]
    with tempfile.TemporaryFile() as tasks:
        for batch in labels.singles(columns):
            texts = [as_json(_task(row, images)).encode() for row in batch.to_pylist()]
            tasks.writelines(texts)
            scores.append(batch.column("mean_logprob").to_numpy(zero_copy_only=False).astype(np.float32))
            places.append(places[-1][-1] + np.cumsum([len(text) for text in texts], dtype=np.int64))
        count = write_list(_by_score(tasks, np.concatenate(scores), np.concatenate(places)), write)
    return Exported(count, _rows(labels) - count, MANY)


def _by_score(tasks: BinaryIO, scores: np.ndarray, places: np.ndarray) -> Iterator[str]:
    """The texts in `tasks`, each from one of the `places` to the next; those of which the score isn't known first."""
    for row in np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable"):
        tasks.seek(places[row])
        yield tasks.read(places[row + 1] - places[row]).decode()


def _task(row: dict[str, Any], images: Images) -> dict[str, Any]:
    score = row["mean_logprob"]
    answer = {"from_name": "answer", "to_name": "image", "type": "textarea", "value": {"text": [row["answer"]]}}
    prediction = {
        "model_version": f"{row['model']} ({row['strategy']})",
        "score": None if score is None else math.exp(score),
        "result": [{"id": "answer"} | answer],
    }
    data = {"id": row["id"], "image": images.url(Shown.of(row)[0]), "question": row["prompt"]}
    return {
        "data": data | {"finish_reason": row["finish_reason"], "run_id": row["run_id"]},
        "predictions": [prediction],
    }


def write_list(entries: Iterable[str], write: Write, brackets: str = "[]") -> int:
    """A JSON list of entries, one on a line, or with other brackets an object; how many."""
    count = 0
    for count, entry in enumerate(entries, 1):
        write((f"{brackets[0]}\n" if count == 1 else ",\n") + entry)
    write(f"\n{brackets[1]}" if count else brackets)
    return count


def as_json(value: Any) -> str:
    """On one line, as every reader of JSON takes it."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)


def _plain(value: Any) -> Any:
    """What JSON knows of what Arrow does."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Beside \n and \r, which JSON escapes, `str.splitlines` knows these. They can only stand in strings.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
