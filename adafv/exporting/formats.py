"""The formats: each writes an output's labels as text, row by row, and counts them.

docs/export.md shows the results. In all of them NaN is null, and text is unchanged except for three characters that
some readers take for line ends.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import adafv
from adafv.exporting.images import Images, LabelImage
from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST
from adafv.pipeline.outputs.reader import read_labels
from adafv.pipeline.store.storage import Storage

LISTED = 10  # labels left out whose reasons are shown
WHICH = ["image", "image_uri", "images"]  # columns that name a label's images
PLACEHOLDER = "<image>"  # where LLaVA's loader puts the image
# Long columns that only make sense together.
LISTS = ("kept_indices", "kept_cues", "grid", "first_kept_indices")

Write = Callable[[str], object]


@dataclass(frozen=True)
class Labels:
    """The labels of the output at `uri`."""

    uri: str
    storage: Storage

    def batches(self, columns: list[str], whole: bool = False) -> Iterator[pa.RecordBatch]:
        """`whole`: with the columns that a job adds: see `read_labels`."""
        return read_labels(self.uri, columns, self.storage, whole=whole)

    def singles(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The labels with exactly one image."""
        for batch in self.batches(list(dict.fromkeys([*columns, "images"]))):
            several = pc.not_equal(pc.list_value_length(batch.column("images")), 1)
            yield batch.filter(pc.invert(pc.fill_null(several, False)))  # null in old labels, which have one each

    def rows(self, columns: list[str], whole: bool = False) -> Iterator[dict[str, Any]]:
        return (row for batch in self.batches(columns, whole) for row in batch.to_pylist())


@dataclass(frozen=True)
class Exported:
    """How many rows were written, how many left out, and why; `listed`: some ids, each with its own reason."""

    rows: int
    left_out: int = 0
    reason: str = ""
    listed: tuple[str, ...] = ()


MANY = "they are of no image or of several, and the format has one for each"


def jsonl(labels: Labels, images: Images, write: Write) -> Exported:
    """JSON lines: a label per line, with all columns except `LISTS`, and those that its job added."""
    count = 0
    for row in shown_rows(labels, images):
        write(as_json(row) + "\n")
        count += 1
    return Exported(count)


def shown_rows(labels: Labels, images: Images) -> Iterator[dict[str, Any]]:
    """The labels with all columns except `LISTS` in a fixed order, then those that a job added."""
    columns = [name for name in schema.LABELS.names if name not in LISTS]
    for row in labels.rows(columns, whole=True):
        names = [images.relative(image) for image in LabelImage.of(row)]
        first = names[0] if names else row["image"]
        shown = row["images"] and [each | {"image": name} for each, name in zip(row["images"], names, strict=True)]
        shares = row["choice_probabilities"] and dict(row["choice_probabilities"])
        row |= {"image": first, "images": shown, "choice_probabilities": shares}
        yield {name: row.pop(name) for name in columns} | row


def llava(labels: Labels, images: Images, write: Write) -> Exported:
    """A conversation of one question and answer per label. Several images are a list, before the question. LLaVA
    puts an image wherever a text has the placeholder, so a row whose texts contain it is left out."""
    left_out = 0
    images = images.with_shared_names(images_of(batch) for batch in labels.batches(WHICH))

    def entries() -> Iterator[str]:
        nonlocal left_out
        for row in labels.rows([*WHICH, "id", "prompt", "answer", "finish_reason"]):
            if PLACEHOLDER in row["prompt"] + row["answer"]:
                left_out += 1
                continue
            shown = [images.relative(image) for image in LabelImage.of(row)]
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
    """COCO captions: each distinct image once, each label as an annotation of its image. Labels of several images are
    left out.

    The images are counted first, as digests of 16 bytes per row; then they are written, and then the annotations.
    """
    known = Numbers(_digests(batch) for batch in labels.singles(WHICH))
    images = images.with_shared_names(images_of(batch) for batch in labels.singles(WHICH))
    shown, annotations = _coco_images(labels, images, known), _coco_annotations(labels, known)
    count = write_coco(write, f"labels of {labels.uri}", images=shown, annotations=annotations)["annotations"]
    return Exported(count, _rows(labels) - count, MANY)


def write_coco(write: Write, description: str, **lists: Iterable[str]) -> dict[str, int]:
    """A COCO file with these lists of entries; how many each has."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    info = {"description": description, "version": adafv.__version__, "date_created": now}
    write('{"info": ' + as_json(info) + ',\n"licenses": []')
    counts = {}
    for name, entries in lists.items():
        write(f',\n"{name}": ')
        counts[name] = write_list(entries, write)
    write("}\n")
    return counts


def _coco_images(labels: Labels, images: Images, known: Numbers) -> Iterator[str]:
    written = 0
    for batch in labels.singles(WHICH):
        for number, image in zip(known.of(_digests(batch)), images_of(batch), strict=True):
            if number > written:  # numbers are given in the order in which the images are first seen
                written += 1
                yield as_json({"id": int(number), "file_name": images.relative(image)})


def _coco_annotations(labels: Labels, known: Numbers) -> Iterator[str]:
    count = 0
    for batch in labels.singles([*WHICH, "id", "answer", "finish_reason"]):
        for number, row in zip(known.of(_digests(batch)), batch.to_pylist(), strict=True):
            count += 1
            annotation = {"id": count, "image_id": int(number), "caption": row["answer"]}
            yield as_json(annotation | {"label": row["id"], "finish_reason": row["finish_reason"]})


def _rows(labels: Labels) -> int:
    return sum(batch.num_rows for batch in labels.batches(["finish_reason"]))


class Numbers:
    """Numbers distinct digests from 1 in order of appearance."""

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
    """DIGEST [N] of the images."""
    return np.frombuffer(b"".join(image.identity for image in images_of(batch)), DIGEST)


def images_of(batch: pa.RecordBatch) -> list[LabelImage]:
    """The images of all labels in a batch."""
    return [image for row in batch.select(WHICH).to_pylist() for image in LabelImage.of(row)]


def label_studio(labels: Labels, images: Images, write: Write) -> Exported:
    """Tasks with the answers as predictions, the least confident first. Labels of no or several images are left out.

    They are written to an unnamed file, with 12 bytes per row kept in memory, and copied from it in order.
    """
    columns = [*WHICH, "id", "prompt", "answer", "finish_reason", "mean_logprob", "model", "strategy", "run_id"]
    images = images.with_shared_names(images_of(batch) for batch in labels.singles(WHICH))
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
    """The texts in `tasks`, each between two adjacent `places`; those without a score first."""
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
    data = {"id": row["id"], "image": images.url(LabelImage.of(row)[0]), "question": row["prompt"]}
    return {
        "data": data | {"finish_reason": row["finish_reason"], "run_id": row["run_id"]},
        "predictions": [prediction],
    }


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` when it is complete; after an error nothing has changed."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        file = temporary.open("x", encoding="utf-8", newline="\n")
    except OSError as error:
        raise OSError(f"{path} can't be written: {error.strerror}") from error
    try:
        with file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_list(entries: Iterable[str], write: Write, brackets: str = "[]") -> int:
    """A JSON list of entries, one per line, or with other brackets an object; how many."""
    count = 0
    for count, entry in enumerate(entries, 1):
        write((f"{brackets[0]}\n" if count == 1 else ",\n") + entry)
    write(f"\n{brackets[1]}" if count else brackets)
    return count


def as_json(value: Any) -> str:
    """JSON on one line, for any reader."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)


def _plain(value: Any) -> Any:
    """Arrow's Python values as JSON's."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Line ends for `str.splitlines` that JSON doesn't escape. They only occur in strings.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
