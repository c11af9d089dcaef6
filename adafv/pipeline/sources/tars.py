"""The samples of WebDataset tars.

Adjacent members with the same name up to the first dot are a sample, and that name is its key: `a/0001.jpg`,
`a/0001.json` and `a/0001.txt` are the sample `a/0001`. Rows are made of these images:

* the image whose extension is all that follows the key (`0001.jpg`). Others, such as the mask `0001.seg.png`, are
passed over;
* if there are several of these (`0001.jpg`, `0001.png`), each is a row: the first by the key, the others by full name;
* a single longer one (`0001.seg.png`) if there is no other;
* if there are only several longer ones, the dots belong to their names (`2024.05.01 trip.jpg`), and each is a row by
its name up to the last dot.

A .json and a .txt belong to the image with their name, or to all images of the key. Every member is accounted for.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.json_text import json_object
from adafv.pipeline.sources.listing import SYSTEM
from adafv.pipeline.sources.records import Record
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.streams import CHUNK, Stream
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, UnitReading, open_streamed

MOST_BEYOND = 100  # reads behind the end of a tar
MOST_PADDING = 2 * tarfile.RECORDSIZE  # zeros behind its end: tools fill up a record
METADATA = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)  # types of members that describe others
GROUP_LIMIT = 64 * 2**20  # bytes of one key's images in memory, if their names have dots


def read_tar(reading: UnitReading) -> Iterator[Record]:
    number = 0
    try:
        with (
            open_streamed(reading.unit, reading.storage) as stream,
            _Tar.open(fileobj=_Source(stream), mode="r|") as tar,
        ):
            for sample in _samples(tar, reading):
                for record in sample.records():
                    yield record
                    number += 1
            if why := _rest(tar):
                reading.passed.add("rests of files", why, reading.unit.uri)
    except READ_ERRORS as error:
        yield reading.rest_unreadable(number, error)


class _Source(io.RawIOBase):
    """A tar's bytes. Python reads on behind their end for as long as a header says, which may be for ever."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream, self._beyond = stream, 0

    def read(self, size: int = CHUNK) -> bytes:
        data = self._stream.read(size)
        self._beyond += not data
        if self._beyond > MOST_BEYOND:
            raise EOFError("the tar ends too early")
        return data


class _Header(tarfile.TarInfo):
    """A member's header that raises ReadError if it is damaged or cut off, where Python raises anything or takes it for
    the end of the tar; and if it says more than can be held."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        header = super().frombuf(buf, encoding, errors)
        if header.type in METADATA and header.size > units.LINE_LIMIT:
            raise tarfile.ReadError(f"a member's header has {header.size} bytes; the limit is {units.LINE_LIMIT}")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.has_end = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, ValueError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a member's header is damaged: {error}") from error


class _Tar(tarfile.TarFile):
    """A tar. `has_end`: whether its end has been read, rather than that of the file."""

    tarinfo = _Header
    has_end = False


def _rest(tar: _Tar) -> str:
    """What there may be behind a tar's end, such as another tar; empty for padding alone."""
    if not tar.has_end:
        return "a tar without the zeros at its end may be cut off there"
    zeros = 0
    try:
        while (chunk := tar.fileobj.read(CHUNK)) and not chunk.strip(b"\0"):
            zeros += len(chunk)
    except READ_ERRORS:
        chunk = b"unreadable"
    if chunk:
        return "what lies behind the end of a tar isn't read"
    # Downloads that were broken off leave zeros in files of the full size, and so do crashes.
    return "a tar with more zeros at its end than usual may have lost members there" if zeros > MOST_PADDING else ""


def _samples(tar: tarfile.TarFile, reading: UnitReading) -> Iterator[_TarSample]:
    sample = None
    for member in tar:
        tar.members.clear()  # type: ignore[attr-defined]  # all that were read, which only random access needs
        if why := _why_not(member):
            reading.pass_over("members", why, member.name)
            continue
        key = _key_of(member.name)
        if sample is None or sample.key != key or sample.is_full():
            if sample is not None:
                yield sample
            sample = _TarSample(reading, key, going_on=sample is not None and sample.key == key)
        sample.add(tar, member)
    if sample is not None:
        yield sample


def _why_not(member: tarfile.TarInfo) -> str:
    """Why a member belongs to no sample; empty if it does."""
    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
    if any(part in SYSTEM for part in parts):
        return "an operating system's own folder holds no data"
    if any(part.startswith(".") for part in parts):
        return "a name that begins with a dot is hidden"
    if member.isdir():
        return "a folder has no bytes"
    if not (member.isfile() or member.islnk() or member.issym()):
        return "a device or the like has no bytes"
    return ""


def _key_of(name: str) -> str:
    folder, base = posixpath.split(name.removeprefix("./"))
    return posixpath.join(folder, base.partition(".")[0])


@dataclass(frozen=True)
class _Member:
    """A member of a sample.

    Attributes:
        name: in the tar; `stem`: without its last extension; `extension`: that, in lower case.
        value: an image's bytes, a .txt's text, a .json's object, or a reject; None if not needed.
    """

    name: str
    stem: str
    extension: str
    value: Any

    @property
    def is_image(self) -> bool:
        return self.extension in IMAGE_EXTENSIONS


class _TarSample:
    """The members of a tar with the same key.

    Args:
        going_on: whether earlier members of the key made a full sample.
    """

    def __init__(self, reading: UnitReading, key: str, going_on: bool) -> None:
        self.key, self._reading, self._going_on = key, reading, going_on
        self._members: list[_Member] = []
        self._size = 0
        self._images: dict[str | None, str] = {}  # by the ids that they gave their rows
        self._used: set[str] = set()  # the names of members beside them

    def is_full(self) -> bool:
        """Whether it holds enough images with dots in their names to make a row of each now."""
        stems = [member.stem for member in self._members if member.is_image]
        return self._size > GROUP_LIMIT and len(stems) > 1 and self.key not in stems

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        stem, extension = posixpath.splitext(member.name.removeprefix("./"))
        extension = extension.lower()
        self._members.append(_Member(member.name, stem, extension, self._value(tar, member, stem, extension)))
        self._size += member.size

    def _is_beside(self, stem: str) -> bool:
        """Whether the key itself has an image, and `stem` is another one."""
        return stem != self.key and any(image.is_image and image.stem == self.key for image in self._members)

    def _value(self, tar: tarfile.TarFile, member: tarfile.TarInfo, stem: str, extension: str) -> Any:
        if extension not in (*IMAGE_EXTENSIONS, ".json", ".txt"):
            return None
        if not member.isfile():
            return Reject(
                "bad_row",
                f"{member.name} is a link to {member.linkname}, and a tar is read from end to end: pack it with "
                "tar --dereference --hard-dereference",
            )
        limit = self._reading.columns.max_image_bytes
        if extension in IMAGE_EXTENSIONS and member.size > limit:
            return Reject("image_too_large", f"{member.name} has {member.size} bytes; the limit is {limit}")
        if extension in IMAGE_EXTENSIONS:
            return _content(tar, member) if self._reading.images and not self._is_beside(stem) else None
        if member.size > units.LINE_LIMIT:
            return Reject("bad_row", f"{member.name} has {member.size} bytes; the limit is {units.LINE_LIMIT}")
        data = _content(tar, member)
        return json_object(data) if extension == ".json" else data.decode("utf-8", "replace").strip()

    def records(self) -> Iterator[Record]:
        """One record, or one per image."""
        useful = [member for member in self._members if member.is_image or member.extension in (".json", ".txt")]
        if not useful:
            names = ", ".join(member.name for member in self._members[:5])
            missing = Reject("image_missing", f"the sample has no image; it has {len(self._members)} members: {names}")
            key = clean(self.key)
            yield self._reading.record(key, {self._reading.columns.id: key}, missing)
            return
        images = [member for member in self._members if member.is_image]
        chosen = [image for image in images if image.stem == self.key] or images
        asked: list[_Member | None] = [*chosen] or [None]
        for image in asked:
            yield self._record(image, alone=len(chosen) < 2 and not self._going_on)
        self._pass_over(chosen)

    def _record(self, image: _Member | None, alone: bool) -> Record:
        names = self._reading.columns
        stem = self.key if image is None or alone else image.stem
        text, metadata = self._beside(image, ".txt", alone), self._beside(image, ".json", alone)
        self._used |= {member.name for member in (text, metadata) if member is not None}
        values: dict[str, Any] = {names.id: clean(stem)}
        rejects = [member.value for member in (image, metadata, text) if member and isinstance(member.value, Reject)]
        if image is None and names.conversations is None:
            there = ", ".join(member.name for member in self._members[:5])
            sort = "a sample's members must be adjacent, as tar --sort=name packs them"
            rejects.append(Reject("image_missing", f"the sample has no image, only {there}; {sort}"))
        if image is not None and not isinstance(image.value, Reject):
            path = f"{self._reading.unit.uri}#{clean(image.name)}"
            values[names.image] = {"path": path, "bytes": image.value}
        if text is not None and not isinstance(text.value, Reject):
            values |= {names.question: text.value, "txt": text.value}
        if metadata is not None and isinstance(metadata.value, dict):
            shared = not alone and image is not None and metadata.stem != image.stem
            kept = {names.image, names.id} if shared else {names.image}
            values |= {name: value for name, value in metadata.value.items() if name not in kept}
        place = self.key if image is None or alone or image.stem == self.key else image.name
        if image is not None:
            id = id_of(values[names.id])
            if self._images.setdefault(id, image.name) != image.name and id is not None:  # another image has it
                values[names.id], place = f"{id}{image.extension}", image.name
        return self._reading.record(clean(place), values, rejects[0] if rejects else None)

    def _beside(self, image: _Member | None, extension: str, alone: bool) -> _Member | None:
        """The .json or .txt for an image: of its name, or of the key, or any if the image is alone."""
        found = [member for member in self._members if member.extension == extension]
        stems = [self.key] if image is None else [image.stem, self.key]
        same = [member for stem in stems for member in found if member.stem == stem]
        return next(iter(same or (found if alone else [])), None)

    def _pass_over(self, chosen: list[_Member]) -> None:
        """Count the members that no row is made of."""
        rows = {id(member) for member in chosen}
        for member in self._members:
            if id(member) in rows:
                continue
            if member.is_image:
                why = "an image beside a sample's own, such as a mask, is not asked about"
            elif member.extension not in (".json", ".txt"):
                why = "of a sample only the image, a .json and a .txt are read"
            elif member.name in self._used:
                self._used.discard(member.name)  # of two members with one name the second counts
                continue
            else:
                why = f"another {member.extension} goes with the sample's image"
            self._reading.pass_over("members", why, member.name)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
