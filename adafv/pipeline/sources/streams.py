"""A file's bytes from start to end, decompressed by content whatever its name; and text as UTF-8."""

from __future__ import annotations

import codecs
import io
import json
import lzma
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs

CHUNK = 2**20
START = 512  # bytes that identify a format
MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x50\x2a\x4d\x18", "zstd"),  # a skippable frame, which pzstd begins with
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xfd7zXZ\x00", "xz"),
)
BZ2 = (b"1AY&SY", b"\x17rE8P\x90")  # behind `BZh` and a digit: a block, or the end if there is none


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


class Stream(io.RawIOBase):
    """Bytes read from start to end.

    Attributes:
        start: the first `START` bytes, or all if there are fewer.
    """

    def __init__(self, source: Readable, close: Callable[[], Any], size: int = START) -> None:
        super().__init__()
        self._source, self._close = source, close
        self.start = _read_exactly(source, size)
        self._left = self.start

    def readable(self) -> bool:
        return True

    def read(self, size: int = CHUNK) -> bytes:
        if not self._left:
            return self._source.read(size)
        chunk, self._left = self._left[:size], self._left[size:]
        # One read: a decompressor that fails behind the file's end would withhold what came before it.
        return chunk + self._source.read(size - len(chunk)) if len(chunk) < size else chunk

    def close(self) -> None:
        super().close()
        self._close()


def open_stream(filesystem: pyarrow.fs.FileSystem, path: str) -> Stream:
    """The file at `path`, decompressed. Raises what its file system raises, and OSError for bad compressed data."""
    source = filesystem.open_input_stream(path, compression=None, buffer_size=CHUNK)
    try:
        raw = Stream(source, source.close)
        unpacked = _unpacked(raw)
        return raw if unpacked is None else Stream(unpacked, source.close)
    except BaseException:
        source.close()
        raise


def _unpacked(raw: Stream) -> Readable | None:
    """A decompressor for `raw`; None if it isn't compressed."""
    codec = next((codec for magic, codec in MAGIC if raw.start.startswith(magic)), None)
    if raw.start[:3] == b"BZh" and raw.start[4:10] in BZ2:
        codec = "bz2"
    if codec is None:
        return None
    return _Xz(raw) if codec == "xz" else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


class _Xz:
    """Concatenated xz streams. Python's own file object ignores trailing garbage silently."""

    def __init__(self, source: Stream) -> None:
        self._source, self._unpack = source, lzma.LZMADecompressor()

    def read(self, size: int = CHUNK) -> bytes:
        data = b""
        while not data:
            chunk = b""
            if self._unpack.eof:
                chunk = (self._unpack.unused_data or self._source.read(CHUNK)).lstrip(b"\0")
                if not chunk:
                    return b""
                self._unpack = lzma.LZMADecompressor()
            elif self._unpack.needs_input and not (chunk := self._source.read(CHUNK)):
                raise EOFError("the compressed file ends too early")
            data = self._unpack.decompress(chunk, size)
        return data


def _read_exactly(source: Readable, size: int) -> bytes:
    """`size` bytes, or all there are."""
    gathered = b""
    while len(gathered) < size and (chunk := source.read(size - len(gathered))):
        gathered += chunk
    return gathered


def open_text(stream: Stream) -> Stream:
    """A stream's text as UTF-8 without a byte order mark, from any Unicode encoding. `start` is longer.

    Damaged UTF-16 or UTF-32 raises UnicodeDecodeError; bytes that aren't UTF-8 are passed on.
    """
    encoding = json.detect_encoding(stream.start)
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    source: Readable = stream if encoding.startswith("utf-8") else _AsUtf8(stream, encoding)
    return Stream(source, stream.close, size=CHUNK)


class _AsUtf8:
    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder(encoding)().decode

    def read(self, size: int = CHUNK) -> bytes:
        text, chunk = "", b"more"
        while not text and chunk:
            chunk = self._stream.read(size)
            text = self._decode(chunk, final=not chunk)
        return text.encode("utf-8", "replace")
