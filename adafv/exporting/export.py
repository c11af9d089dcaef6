"""Exports labels to one file, which is whole once it appears."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from adafv.exporting.captions import imagefolder, imagefolder_csv, kohya
from adafv.exporting.detections import coco_detections
from adafv.exporting.formats import Exported, Labels, Write, coco_captions, jsonl, label_studio, llava, replacing
from adafv.exporting.images import Images
from adafv.pipeline.store.storage import Storage

FORMATS: dict[str, Callable[[Labels, Images, Write], Exported]] = {
    "jsonl": jsonl,
    "coco-captions": coco_captions,
    "coco-detections": coco_detections,
    "llava": llava,
    "label-studio": label_studio,
    "imagefolder": imagefolder,
    "kohya": kohya,
}


def export(
    uri: str | os.PathLike[str],
    format: str,
    target: Path,
    image_roots: Sequence[str] = (),
    storage: Storage | None = None,
    boxes: str | None = None,
) -> Exported:
    """Write the labels of the output at `uri`, a local folder or s3://, to `target` in one of `FORMATS`. Labels are
    streamed.

    Args:
        boxes: for coco-detections, how answers give boxes; None if their models' names tell.

    Raises:
        UsageError: there is no output, or its images can't be named as the format needs.
        OSError: the labels can't be read, or the file can't be written.
    """
    labels = Labels(os.fspath(uri), storage or Storage.from_environment())
    write = partial(coco_detections, boxes=boxes) if format == "coco-detections" else FORMATS[format]
    if format == "imagefolder" and target.suffix.lower() == ".csv":
        write = imagefolder_csv
    with replacing(target) as file:
        exported = write(labels, Images.of(image_roots), file.write)
        file.flush()
        os.fsync(file.fileno())
    return exported
