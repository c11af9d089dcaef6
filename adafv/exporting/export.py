"""One exported file: written under another name and renamed, so that a file that can be seen is whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from adafv.exporting.captions import imagefolder, kohya
from adafv.exporting.formats import Exported, Labels, Write, coco_captions, jsonl, label_studio, llava
from adafv.exporting.images import Images
from adafv.pipeline.store.storage import Storage

FORMATS: dict[str, Callable[[Labels, Images, Write], Exported]] = {
    "jsonl": jsonl,
    "coco-captions": coco_captions,
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
) -> Exported:
    """Write the labels of the output at `uri`, a local folder or s3://, to `target`, in one of `FORMATS`.

    Labels are streamed: an output may be larger than memory.

    Raises:
        UsageError: there is no output, or its images can't be named as the format needs it.
        OSError: the labels can't be read, or the file can't be written.
    """
    labels = Labels(os.fspath(uri), storage or Storage.from_environment())
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        opened = temporary.open("x", encoding="utf-8", newline="\n")
    except OSError as error:
        raise OSError(f"{target} can't be written: {error.strerror}") from error
    try:
        with opened as file:
            exported = FORMATS[format](labels, Images.of(image_roots), file.write)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return exported
