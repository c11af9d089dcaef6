"""Captions as trainers read them: one per image, in a text file beside it or in one file. If several labels are
about an image, the first in labels/ counts."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adafv.exporting.formats import WHICH, Exported, Labels, Write, as_json, images_of, replacing, write_list
from adafv.exporting.images import Images, LabelImage
from adafv.pipeline.sources.formats import TARS
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS

METADATA = ("file_name", "text", "id", "prompt", "finish_reason")
EXISTING = ("skip", "append", "prepend", "replace")
OTHERS = "they are of no image or of several, another label has their image, or their image lies elsewhere"


class Captions:
    """The labels that are captions of their images, with the images' names. Takes about 100 bytes per label.

    Args:
        extension: replaces the images' own, so that 1.jpg and 1.png have one name.

    Attributes:
        left_out: how many labels so far are no captions.
    """

    def __init__(self, labels: Labels, images: Images, extension: str | None = None) -> None:
        self._labels, self._images, self._extension = labels, images, extension
        self.left_out = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        seen: set[bytes] = set()
        images = self._images.with_shared_names(images_of(batch) for batch in self._labels.singles(WHICH))
        for row in self._labels.rows([*WHICH, "id", "prompt", "answer", "finish_reason"]):
            shown = LabelImage.of(row)
            name = images.relative(shown[0]) if len(shown) == 1 else ""
            outside = not name or "://" in name or name[0] == "/" or ".." in name.split("/")
            within = not outside and not _is_held(shown[0], name)
            if self._extension is not None:
                name = os.path.splitext(name)[0] + self._extension
            key = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if within and key not in seen:
                seen.add(key)
                yield name, row
            else:
                self.left_out += 1


def _is_held(image: LabelImage, name: str) -> bool:
    """Whether the image is in a table, under its path or a place such as `part.parquet#1`, or in a tar, as
    `0.tar#a.jpg` is; `a#1.jpg` is a file."""
    if image.uri is not None and image.file is None:
        return True
    in_tar = any(f"{extension}#" in name.lower() for extension in TARS)
    return "#" in name and (in_tar or os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS)


def imagefolder(labels: Labels, images: Images, write: Write) -> Exported:
    """metadata.jsonl, as `datasets` reads a folder of images with texts."""
    return _metadata(labels, images, lambda row: write(as_json(row) + "\n"))


def imagefolder_csv(labels: Labels, images: Images, write: Write) -> Exported:
    """metadata.csv, with the same columns. All are quoted, since Python's csv leaves a lone carriage return bare, and
    readers end the line there."""
    rows = csv.DictWriter(SimpleNamespace(write=write), METADATA, lineterminator="\n", quoting=csv.QUOTE_ALL)
    rows.writeheader()
    return _metadata(labels, images, rows.writerow)


def _metadata(labels: Labels, images: Images, write_row: Callable[[dict[str, Any]], object]) -> Exported:
    captions, count = Captions(labels, images), 0
    for name, row in captions:
        count += 1
        values = (name, row["answer"], row["id"], row["prompt"], row["finish_reason"])
        write_row(dict(zip(METADATA, values, strict=True)))
    return Exported(count, captions.left_out, OTHERS)


def kohya(labels: Labels, images: Images, write: Write) -> Exported:
    """An object with a caption per image, as sd-scripts' `in_json` has it."""
    captions = Captions(labels, images)
    entries = (f"{as_json(name)}: {as_json({'caption': row['answer']})}" for name, row in captions)
    count = write_list(entries, write, "{}")
    return Exported(count, captions.left_out, OTHERS)


@dataclass(frozen=True)
class Texts:
    """A text file per image, in a folder laid out like the images.

    Attributes:
        existing: what to do with an existing text: keep it (`skip`), put it before or after the caption (`append`,
            `prepend`), or replace it.
        prefix, suffix: around each caption. Without one, a space separates caption and text.
    """

    folder: Path
    existing: str = "skip"
    prefix: str = ""
    suffix: str = ""

    def export(self, labels: Labels, images: Images) -> Exported:
        """Write the files, each whole or not at all. The same export again adds nothing twice. Raises OSError if one
        can't be written."""
        captions, count, held = Captions(labels, images, ".txt"), 0, 0
        for name, row in captions:
            if self._write(self.folder / name, row["answer"].strip()):
                count += 1
            else:
                held += 1
        kept = f"{held:,} have a text already (--existing); the rest: " if held else ""
        return Exported(count, captions.left_out + held, kept + OTHERS)

    def _write(self, path: Path, answer: str) -> bool:
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise OSError(f"{path} leads out of {self.folder}: a folder in it is a link")
        text = self.prefix + answer + self.suffix
        data = path.read_bytes().strip() if path.exists() and self.existing != "replace" else b""
        if data and self.existing == "skip":
            return False
        try:
            held = data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise OSError(f"{path} isn't UTF-8: convert it, or give --existing skip or replace") from error
        before, after = "" if self.prefix else " ", "" if self.suffix else " "
        if held and self.existing == "append":
            there, text = f" {held}".endswith(before + text.rstrip()), held + before + text
        else:
            there = bool(held) and f"{held} ".startswith(text.lstrip() + after)
            text += after + held if held else ""
        if there:  # from an export that ended halfway
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text)
        return True
