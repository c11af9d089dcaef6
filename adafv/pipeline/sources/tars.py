"""The samples of WebDataset tars.

Neighbouring members whose names agree up to the first dot of the file name are a sample, and that name is its key: so
`a/0001.jpg`, `a/0001.json` and `a/0001.txt` are the sample `a/0001`. Which of its images a row is of:

* the one whose extension is all that follows the key (`0001.jpg`). Others beside it, such as the mask `0001.seg.png`,
  are passed over;
* of several such ones (`0001.jpg`, `0001.png`) each is a row: the first by the key, the others by their names in full;
* where there is only a longer one (`0001.seg.png`), that;
* where there are several longer ones and no other, the dots belong to their names (`2024.05.01 trip.jpg`): each is a
  row by its name up to the last dot.

A .json and a .txt go with the image that has their name, or with all of the key's. No member is left out in silence.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.json_text import json_object, rest_unreadable
from adafv.pipeline.sources.listing import SYSTEM
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import id_of
from adafv.pipeline.sources.units import IMAGE_EXTENSIONS, READ_ERRORS, Unit, open_streamed
from adafv.pipeline.store.storage import Storage

GROUP_LIMIT = 64 * 2**20  # bytes of the images of one key that are held at once, where their names have dots


def read_tar(unit: Unit, storage: Storage, columns: Columns, images: bool, passed: PassedOver) -> Iterator[Record]:
    """The samples of a tar, in order."""
    number, tar = 0, None
    try:
        with (
            open_streamed(unit, storage) as stream,
            _Archive.open(fileobj=stream, mode="r|", ignore_zeros=True) as tar,
        ):
            for sample in _samples(tar, _Reading(unit, columns, images, passed)):
                for record in sample.records():
                    yield record
                    number += 1
    except READ_ERRORS as error:
        if tar is None or not tar.ended:
            yield rest_unreadable(unit, number, error)
        else:
            passed.add("rests of files", "what lies behind the end of a tar can't be read", unit.uri)
    if tar is not None and tar.rest:
        passed.add("blocks of 512 bytes", "what lies behind the end of a tar is no tar", unit.uri, tar.rest)


class _Header(tarfile.TarInfo):
    """A member's header that, where it is damaged or cut off, is an error: Python takes it for the end of the tar.

    Behind the end of a tar another may follow, as where tars were joined by `cat`. What isn't one is counted.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        if 0 < len(buf) < tarfile.BLOCKSIZE and not buf.strip(b"\0"):  # padding to no whole block
            raise tarfile.EmptyHeaderError("the end of the file")  # type: ignore[attr-defined]
        return super().frombuf(buf, encoding, errors)

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Any:
        assert isinstance(tarfile_, _Archive)
        try:
            header = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.ended = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if not tarfile_.ended:
                raise tarfile.ReadError(f"a member's header is damaged: {error}") from error
            tarfile_.rest += 1
            if isinstance(error, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
                raise tarfile.EmptyHeaderError("the end of the file") from error  # type: ignore[attr-defined]
            raise tarfile.EOFHeaderError("look on") from error  # type: ignore[attr-defined]
        tarfile_.ended = False
        return header


class _Archive(tarfile.TarFile):
    """A tar, or several one after the other.

    Attributes:
        ended: whether the end of one has been read, and no member since.
        rest: blocks behind it that are no members.
    """

    tarinfo = _Header
    ended = False
    rest = 0


@dataclass(frozen=True)
class _Reading:
    unit: Unit
    columns: Columns
    images: bool
    passed: PassedOver


def _samples(tar: _Archive, reading: _Reading) -> Iterator[_Sample]:
    """The samples of a tar. Raises what reading raises; behind the end of a tar only after the last sample."""
    sample, failure = None, None
    members = iter(tar)
    while True:
        try:
            member = next(members, None)
        except READ_ERRORS as error:
            if not tar.ended:
                raise
            member, failure = None, error
        if member is None:
            break
        if why := _why_not(member):
            reading.passed.add("members", why, f"{reading.unit.uri}#{member.name}")
            continue
        key = _key_of(member.name)
        if sample is None or sample.key != key or sample.is_full():
            if sample is not None:
                yield sample
            sample = _Sample(reading, key, going_on=sample is not None and sample.key == key)
        sample.add(tar, member)
    if sample is not None:
        yield sample
    if failure is not None:
        raise failure


def _why_not(member: tarfile.TarInfo) -> str:
    """Why a member is none of a sample's; empty where it is one."""
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
        value: an image's bytes, a .txt's text, a .json's object, or why it can't be had. None where nobody asked.
    """

    name: str
    stem: str
    extension: str
    value: Any

    @property
    def is_image(self) -> bool:
        return self.extension in IMAGE_EXTENSIONS


class _Sample:
    """The members of a tar that have a key in common, as they come.

    Args:
        going_on: whether the key's first members are another sample's, which was full.
    """

    def __init__(self, reading: _Reading, key: str, going_on: bool) -> None:
        self.key, self._reading, self._going_on = key, reading, going_on
        self._members: list[_Member] = []
        self._size = 0

    def is_full(self) -> bool:
        """Whether so much is held of images with dots in their names that a row should be made of each."""
        longer = [member for member in self._members if member.is_image and member.stem != self.key]
        return self._size > GROUP_LIMIT and len(longer) > 1 and len(longer) == len(self._images())

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        stem, extension = posixpath.splitext(member.name.removeprefix("./"))
        extension = extension.lower()
        self._members.append(_Member(member.name, stem, extension, self._value(tar, member, stem, extension)))
        self._size += member.size

    def _is_beside(self, stem: str) -> bool:
        """Whether there is an image of the key itself, and `stem` isn't."""
        return stem != self.key and any(image.stem == self.key for image in self._images())

    def _value(self, tar: tarfile.TarFile, member: tarfile.TarInfo, stem: str, extension: str) -> Any:
        if extension not in (*IMAGE_EXTENSIONS, ".json", ".txt"):
            return None
        if not member.isfile():
            return Reject(
                "bad_row",
                f"{member.name} is a link to {member.linkname}, and a tar is read from end to end: pack it with "
                "tar --dereference --hard-dereference",
            )
        if extension in IMAGE_EXTENSIONS:
            return _content(tar, member) if self._reading.images and not self._is_beside(stem) else None
        if member.size > units.LINE_LIMIT:
            return Reject("bad_row", f"{member.name} has {member.size} bytes; the limit is {units.LINE_LIMIT}")
        data = _content(tar, member)
        return json_object(data) if extension == ".json" else data.decode("utf-8", "replace").strip()

    def _images(self) -> list[_Member]:
        return [member for member in self._members if member.is_image]

    def records(self) -> Iterator[Record]:
        """One, or one for each of several images."""
        useful = [member for member in self._members if member.is_image or member.extension in (".json", ".txt")]
        if not useful:
            names = ", ".join(member.name for member in self._members[:5])
            missing = Reject("image_missing", f"the sample has no image; it has {len(self._members)} members: {names}")
            yield Record(self._place(self.key), self._reading.unit.root, self._named(clean(self.key)), missing)
            return
        chosen, used = self._chosen(), set[str]()
        ids: dict[str | None, str] = {}
        asked: list[_Member | None] = [*chosen] or [None]
        for image in asked:
            yield self._record(image, alone=len(chosen) < 2 and not self._going_on, ids=ids, used=used)
        self._pass_over(chosen, used)

    def _chosen(self) -> list[_Member]:
        """The images that rows are made of."""
        images = self._images()
        return [image for image in images if image.stem == self.key] or images

    def _record(self, image: _Member | None, alone: bool, ids: dict[str | None, str], used: set[str]) -> Record:
        names = self._reading.columns
        stem = self.key if image is None or alone else image.stem
        text, metadata = self._beside(image, ".txt", alone), self._beside(image, ".json", alone)
        used |= {member.name for member in (text, metadata) if member is not None}
        values = self._named(clean(stem))
        rejects = [member.value for member in (image, metadata, text) if member and isinstance(member.value, Reject)]
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
            if ids.setdefault(id, image.name) != image.name and id is not None:  # another image has it
                values[names.id], place = f"{id}{image.extension}", image.name
        return Record(self._place(place), self._reading.unit.root, values, rejects[0] if rejects else None)

    def _named(self, id: str) -> dict[str, Any]:
        return {self._reading.columns.id: id}

    def _place(self, name: str) -> str:
        return f"{self._reading.unit.uri}#{clean(name)}"

    def _beside(self, image: _Member | None, extension: str, alone: bool) -> _Member | None:
        """The .json or .txt that goes with an image: that of its name, or of the key, or where it is alone any."""
        found = [member for member in self._members if member.extension == extension]
        stems = [self.key] if image is None else [image.stem, self.key]
        same = [member for stem in stems for member in found if member.stem == stem]
        return next(iter(same or (found if alone else [])), None)

    def _pass_over(self, chosen: list[_Member], used: set[str]) -> None:
        rows = {id(member) for member in chosen}
        for member in self._members:
            if id(member) in rows:
                continue
            if member.is_image:
                why = "an image beside a sample's own, such as a mask, is not asked about"
            elif member.extension not in (".json", ".txt"):
                why = "of a sample only the image, a .json and a .txt are read"
            elif member.name in used:
                used.discard(member.name)  # of two by one name the second counts
                continue
            else:
                why = f"another {member.extension} goes with the sample's image"
            self._reading.passed.add("members", why, f"{self._reading.unit.uri}#{member.name}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
