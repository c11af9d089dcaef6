"""WebDataset shards: each label with its image as the input has it, the answer as .txt and the columns as .json.

Images are read from the runs' inputs, in the inputs' order; until then the labels wait in a temporary database.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from adafv.exporting.formats import LISTED, Exported, Labels, as_json, shown_rows
from adafv.exporting.images import Images, LabelImage
from adafv.pipeline.errors import JobError, UsageError
from adafv.pipeline.images.run_input import Access, RunInput
from adafv.pipeline.record.run_record import read_records
from adafv.pipeline.sources.kinds import TIFF_MAGIC
from adafv.pipeline.sources.rows import Row
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS
from adafv.pipeline.store.output import open_output

SHARD_BYTES = 10**9
_STARTS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"} | dict.fromkeys(TIFF_MAGIC, "tif")
_INPUT = (
    *("folder", "input", "image_root", "allow_http", "allow_local", "prompt", "prompts", "where", "max_image_bytes"),
    *("id_column", "image_column", "question_column", "conversations_column"),
)


def webdataset(
    labels: Labels, images: Images, folder: Path, shard_bytes: int = SHARD_BYTES, inputs: Sequence[str] = ()
) -> Exported:
    """Write the new folder NAME with NAME-000000.tar and so on, which appears when it is complete. Labels of no or
    several images, or whose image can't be had, are left out.

    A sample's key is the label's id, without an image's extension if no other label has that key. All characters but
    letters, digits, _, - and / are %-encoded, and / where a part is empty or begins with __.

    Args:
        shard_bytes: of a shard, about; a larger sample has its own.
        inputs: where the input is now; empty if it is where the runs found it. With them the first root of `images` is
            what relative paths are relative to.

    Raises:
        UsageError: the folder isn't new, or an input isn't there.
        OSError: the labels can't be read or don't fit into TMPDIR, or the folder can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; name a new folder")
    temporary = folder.absolute().parent / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir()
    except OSError as error:
        raise OSError(f"{folder} can't be written: {error.strerror}") from error
    try:
        with tempfile.TemporaryDirectory() as place, closing(sqlite3.connect(Path(place) / "labels")) as database:
            waiting = _Waiting(database, labels, images)
            with closing(_Shards(temporary, folder.name, shard_bytes)) as shards:
                for config in waiting.configs:
                    found = _opened(json.loads(config), labels, images, inputs)
                    for row in found.rows(lambda id, config=config: waiting.has(id, config)):  # type: ignore[misc]
                        waiting.write(row, shards)
            exported = waiting.exported()
        os.replace(temporary, folder)
    except sqlite3.Error as error:
        raise OSError(f"the labels can't be kept in {tempfile.gettempdir()} (TMPDIR): {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return exported


def _opened(config: Mapping[str, Any], labels: Labels, images: Images, inputs: Sequence[str]) -> RunInput:
    root = images.roots[0] if inputs and images.roots else None
    try:
        return RunInput.of(config, Access(labels.storage, tuple(inputs), root, bool(config.get("allow_http"))))
    except (JobError, *READ_ERRORS) as error:
        raise UsageError(f"the images can't be read again ({error}); --input says where they are now") from error


class _Waiting:
    """The labels, in a database on the disk, until their images are found.

    Attributes:
        configs: what the runs' options say of their input, as JSON.
    """

    def __init__(self, database: sqlite3.Connection, labels: Labels, images: Images) -> None:
        self._database = database
        self._rows = self._written = self._left_out = 0
        self._problems: list[str] = []
        self._unreadable: dict[str, str] = {}  # parts of inputs, by what is wrong with them
        database.execute(
            "CREATE TABLE labels (id TEXT PRIMARY KEY, config TEXT, answer TEXT, row TEXT, key TEXT UNIQUE)"
        )
        runs = _configs(labels)
        for row in shown_rows(labels, images):
            self._rows += 1
            if len(LabelImage.of(row)) != 1:
                self._leave_out(row["id"], f"it has {len(LabelImage.of(row))} images")
                continue
            values = row["id"], runs.get(row["run_id"], "{}"), row["answer"], as_json(row)
            if not database.execute("INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?, NULL)", values).rowcount:
                self._leave_out(row["id"], "another label has this id")
        found = database.execute("SELECT config FROM labels GROUP BY config ORDER BY min(rowid)").fetchall()
        self.configs: list[str] = [config for (config,) in found]

    def has(self, id: str, config: str) -> bool:
        """Whether a label of these runs waits for its image."""
        return self._one("SELECT 1 FROM labels WHERE id = ? AND config = ? AND key IS NULL", id, config) is not None

    def write(self, row: Row, shards: _Shards) -> None:
        """The row's label, or count why not. A repeated id is passed over: its first row has the label."""
        if row.id is None and row.reject is not None and len(self._unreadable) < LISTED:
            self._unreadable.setdefault(row.reject.message, row.image)
        label = self._one("SELECT answer, row FROM labels WHERE id = ? AND key IS NULL", row.id)
        if label is None or row.id is None:
            return
        data = row.images[0].data or b"" if row.images else b""
        extension = extension_of(data)
        if row.reject is not None or extension is None:
            key = f"\0{row.id}"  # no sample's
            self._leave_out(row.id, row.reject.message if row.reject else "its image is none any more")
        else:
            key = self._key(row.id)
            self._written += 1
            answer, columns = label
            shards.add(key, {extension: data, "txt": answer.encode(), "json": columns.encode()})
        self._database.execute("UPDATE labels SET key = ? WHERE id = ?", (key, row.id))

    def exported(self) -> Exported:
        gone = self._rows - self._written - self._left_out
        for (id,) in self._database.execute("SELECT id FROM labels WHERE key IS NULL LIMIT ?", (LISTED,)):
            read = "what can be read of the input" if self._unreadable else "the input"
            self._problems.append(f"{id}: {read} has no row with this id any more")
        left_out, listed = self._left_out + gone, self._problems[:LISTED]
        more = [f"and {left_out - len(listed):,} more"] * (left_out > len(listed))
        unread = [f"{place}: {message}" for message, place in self._unreadable.items()] * (gone > 0)
        reason = "their image can't be had, or they have none or several"
        return Exported(self._written, left_out, reason, (*unread, *listed, *more))

    def _leave_out(self, id: str, reason: str) -> None:
        self._left_out += 1
        if len(self._problems) < LISTED:
            self._problems.append(f"{id}: {reason}")

    def _key(self, id: str) -> str:
        stem, extension = posixpath.splitext(id)
        key = _encoded(stem)
        used = self._one("SELECT 1 FROM labels WHERE id = ? OR key = ?", stem, key)
        return key if stem and extension.lower() in IMAGE_EXTENSIONS and used is None else _encoded(id)

    def _one(self, query: str, *values: str | None) -> Any:
        return self._database.execute(query, values).fetchone()


def _encoded(id: str) -> str:
    """The id as a key, another one for each. Readers take what follows a name's first dot for its extension, and skip
    folders such as __a__."""
    whole = all(part and not part.startswith("__") for part in id.split("/"))
    return quote(id, safe="/" if whole else "").replace(".", "%2E").replace("~", "%7E")


def _configs(labels: Labels) -> dict[str, str]:
    """What the options of each run say of its input, as JSON, by the run's id."""

    def taken(record: dict[str, Any]) -> tuple[str, str]:
        options = record["config"] | {"folder": record.get("folder")}
        return record["run_id"], json.dumps({name: options.get(name) for name in _INPUT})

    return dict(read_records(open_output(labels.uri, labels.storage), taken))


class _Shards:
    """Tars in a folder, equal for equal samples."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self._folder, self._name, self._limit = folder, name, limit
        self._number = 0
        self._open: tuple[BinaryIO, tarfile.TarFile] | None = None

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """A sample's members, by extension."""
        size = sum(tarfile.BLOCKSIZE * (1 + -(-len(data) // tarfile.BLOCKSIZE)) for data in members.values())
        if self._open is not None and self._open[1].offset + size > self._limit:
            self.close()
        if self._open is None:
            file = (self._folder / f"{self._name}-{self._number:06}.tar").open("xb")
            self._open = file, tarfile.open(fileobj=file, mode="w")  # noqa: SIM115
            self._number += 1
        for extension, data in members.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(data)
            self._open[1].addfile(header, BytesIO(data))

    def close(self) -> None:
        if self._open is not None:
            file, tar = self._open
            self._open = None
            with file:
                tar.close()
                file.flush()
                os.fsync(file.fileno())


def extension_of(data: bytes) -> str | None:
    """The usual extension of an image file, by its first bytes; None if it is none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "heic"
    return next((extension for start, extension in _STARTS.items() if data.startswith(start)), None)
