"""The format of a file, by its name or else by its first bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from adafv.pipeline.redaction import clean
from adafv.pipeline.sources.formats import FORMATS, PACKED
from adafv.pipeline.sources.streams import open_stream, open_text
from adafv.pipeline.sources.units import READ_ERRORS
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage

TABLES = tuple(name for name, format in FORMATS.items() if format.in_folders)
NAMED_TABLES = tuple(name for name, format in FORMATS.items() if format.in_folders is False)
UNDECODED = (
    ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
)  # fmt: skip
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two are BigTIFF's
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", *TIFF_MAGIC)


def kind_of(name: str) -> str | None:
    lower = name.lower()
    return next((name for name, format in FORMATS.items() if lower.endswith(format.extensions)), None)


def sniffed(filesystem: pafs.FileSystem, path: str, uri: str) -> str | None:
    """The format of a file whose name doesn't say."""
    try:
        with open_stream(filesystem, path) as stream:
            start = stream.start
            if start.startswith(b"PAR1"):
                return "parquet"
            if start[257:262] == b"ustar":
                return "tar"
            if (
                start.startswith(IMAGE_MAGIC)
                or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
                or start[4:8] == b"ftyp"
            ):
                return "images"
            return "jsonl" if open_text(stream).start.lstrip()[:1] in (b"{", b"[") else None
    except UnicodeDecodeError:
        return None
    except READ_ERRORS as error:
        raise store_error(f"--input {uri} can't be read", error) from error


def kinds_of(uri: str, files: Sequence[str], storage: Storage, named: bool) -> dict[str, str | None]:
    """The format of each file by name; if no name says, by the first bytes of files without an extension, or of all
    files that a pattern names."""
    kinds = {name: kind_of(name) for name in files}
    if any(kinds.values()):
        return kinds
    unknown = [name for name in files if clean(name) == name and (named or "." not in posixpath.basename(name))]
    with ThreadPoolExecutor(16) as threads:
        uris = [f"{uri.rstrip('/')}/{name}" for name in unknown]
        found = threads.map(lambda uri: sniffed(*storage.filesystem(uri), uri), uris)
        return kinds | dict(zip(unknown, found, strict=True))


def records_of_img2dataset(kinds: dict[str, str | None]) -> list[str]:
    """img2dataset's Parquet files, which have the name of a tar or folder beside them."""
    folders = {posixpath.dirname(name) for name, kind in kinds.items() if kind == "images"}
    found = []
    for name, kind in kinds.items():
        stem = posixpath.splitext(name)[0]
        in_folder = stem in folders and f"{stem}_stats.json" in kinds
        if kind == "parquet" and (kinds.get(f"{stem}.tar") == "tar" or in_folder):
            found.append(name)
    return found


def why_not(name: str, kind: str | None) -> str:
    """Why a file in a folder is no input."""
    lower = name.lower()
    if kind == "images":
        return "images beside tables are those that the tables name, or nobody's"
    if lower.endswith("_stats.json"):
        return "img2dataset's statistics are no rows"
    if kind in NAMED_TABLES:
        return "a .csv may be anything in a folder: to be read it has to be named"
    if lower.endswith((".json", *(f".json{packed}" for packed in PACKED))):
        return "a .json may be anything in a folder: to be read it has to be named"
    if lower.endswith(UNDECODED):
        return "images of this format can't be decoded: convert them to JPEG or PNG"
    if lower.endswith(".txt"):
        return "a .txt is read only beside its image, and if an option names what it holds"
    return "the format is none that is known"
