"""Captions as trainers read them: one for each image, in a text file beside it or in one file for a folder.

An image that several labels are about has the first of them, as they stand in labels/; the others are left out.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from adafv.exporting.formats import WHICH, Exported, Labels, Write, as_json, write_list
from adafv.exporting.images import Images, Shown

EXISTING = ("skip", "append", "prepend", "replace")
OTHERS = "they are of no image or of several, another label has their image, or their image lies elsewhere"


class Captions:
    """The labels that are their images' captions, with the images' names. Takes about 100 bytes for each.

    Args:
        extension: put in the place of the images' own, so that 1.jpg and 1.png have one name.

    Attributes:
        left_out: how many labels so far are none.
    """

    def __init__(self, labels: Labels, images: Images, extension: str | None = None) -> None:
        self._labels, self._images, self._extension = labels, images, extension
        self.left_out = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        seen: set[bytes] = set()
        for row in self._labels.rows([*WHICH, "id", "prompt", "answer", "finish_reason"]):
            shown = Shown.of(row)
            name = self._images.relative(shown[0]) if len(shown) == 1 else ""
            within = name and "#" not in name and "://" not in name and name[0] != "/" and ".." not in name.split("/")
            if self._extension is not None:
                name = os.path.splitext(name)[0] + self._extension
            key = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if within and key not in seen:
                seen.add(key)
                yield name, row
            else:
                self.left_out += 1


def imagefolder(labels: Labels, images: Images, write: Write) -> Exported:
    """metadata.jsonl, by which `datasets` reads a folder of images with texts."""
    captions, count = Captions(labels, images), 0
    for name, row in captions:
        count += 1
        texts = {"text": row["answer"]} | {key: row[key] for key in ("id", "prompt", "finish_reason")}
        write(as_json({"file_name": name} | texts) + "\n")
    return Exported(count, captions.left_out, OTHERS)


def kohya(labels: Labels, images: Images, write: Write) -> Exported:
    """An object with a caption for each image, as sd-scripts' `in_json` has it."""
    captions = Captions(labels, images)
    entries = (f"{as_json(name)}: {as_json({'caption': row['answer']})}" for name, row in captions)
    count = write_list(entries, write, "{}")
    return Exported(count, captions.left_out, OTHERS)


@dataclass(frozen=True)
class Texts:
    """A text file for each image, in a folder that is laid out as the images are.

    Attributes:
        existing: what becomes of a text that is there: it stays alone (`skip`), before or behind the caption
            (`append`, `prepend`), or not at all (`replace`).
        prefix, suffix: around each caption. Where there is none between a caption and a text, a space is.
    """

    folder: Path
    existing: str = "skip"
    prefix: str = ""
    suffix: str = ""

    def export(self, labels: Labels, images: Images) -> Exported:
        """Write the files, each whole or not at all.

        Raises OSError where one can't be written.
        """
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
        held = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if held and self.existing == "skip":
            return False
        if held and self.existing == "append":
            text = held + ("" if self.prefix else " ") + text
        elif held and self.existing == "prepend":
            text = text + ("" if self.suffix else " ") + held
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return True
