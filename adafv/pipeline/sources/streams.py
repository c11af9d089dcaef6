"""A file's bytes from end to end, decompressed by what they are and not by how the file is named; and text as UTF-8."""

from __future__ import annotations

import codecs
import io
import json
import lzma
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs

BLOCK = 2**20
START = 512  # bytes that tell a format
MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x50\x2a\x4d\x18", "zstd"),  # a frame to be skipped, with which pzstd begins
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xfd7zXZ\x00", "xz"),
)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


class Stream(io.RawIOBase):
    """Bytes of which the first have been looked at, to be read from end to end.

    Attributes:
        start: these first bytes, `START` of them unless there are fewer.
    """

    def __init__(self, source: Readable, close: Callable[[], Any], size: int = START) -> None:
        super().__init__()
        self._source, self._close = source, close
        self.start = _read_exactly(source, size)
        self._left = self.start

    def readable(self) -> bool:
        return True

    def read(self, size: int = BLOCK) -> bytes:
        if not self._left:
            return self._source.read(size)
        block, self._left = self._left[:size], self._left[size:]
        # Not in two goes: what unpacks may fail behind a file's end, and would keep back what came before in one read.
        return block + self._source.read(size - len(block)) if len(block) < size else block

    def close(self) -> None:
        super().close()
        self._close()


def open_stream(filesystem: pyarrow.fs.FileSystem, path: str) -> Stream:
    """The file at `path`, decompressed. Raises what its file system raises, and OSError for bad compressed bytes."""
    source = filesystem.open_input_stream(path, compression=None, buffer_size=BLOCK)
    try:
        raw = Stream(source, source.close)
        unpacked = _unpacked(raw)
        return raw if unpacked is None else Stream(unpacked, source.close)
    except BaseException:
        source.close()
        raise


def _unpacked(raw: Stream) -> Readable | None:
    """What reads the compressed bytes of `raw`; None where they aren't compressed."""
    codec = next((codec for magic, codec in MAGIC if raw.start.startswith(magic)), None)
    if raw.start[:3] == b"BZh" and raw.start[4:10] == b"1AY&SY":
        codec = "bz2"
    if codec is None:
        return None
    return _Xz(raw) if codec == "xz" else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


class _Xz:
    """Streams of xz, one after the other; Python's own file object is silent about what follows that is none."""

    def __init__(self, source: Stream) -> None:
        self._source, self._unpack = source, lzma.LZMADecompressor()

    def read(self, size: int = BLOCK) -> bytes:
        data = b""
        while not data:
            block = b""
            if self._unpack.eof:
                block = (self._unpack.unused_data or self._source.read(BLOCK)).lstrip(b"\0")
                if not block:
                    return b""
                self._unpack = lzma.LZMADecompressor()
            elif self._unpack.needs_input and not (block := self._source.read(BLOCK)):
                raise EOFError("the compressed file ends too early")
            data = self._unpack.decompress(block, size)
        return data


def _read_exactly(source: Readable, size: int) -> bytes:
    """`size` bytes, or all there are."""
    gathered = b""
    while len(gathered) < size and (block := source.read(size - len(gathered))):
        gathered += block
    return gathered


def open_text(stream: Stream) -> Stream:
    """A stream's text as UTF-8 without a mark at its start, whichever Unicode encoding it is in. `start` is longer.

    Reading it raises UnicodeDecodeError where UTF-16 or UTF-32 is damaged; bytes that aren't UTF-8 are handed on.
    """
    encoding = json.detect_encoding(stream.start)
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    source: Readable = stream if encoding.startswith("utf-8") else _AsUtf8(stream, encoding)
    return Stream(source, stream.close, size=BLOCK)


class _AsUtf8:
    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder(encoding)().decode

    def read(self, size: int = BLOCK) -> bytes:
        text, block = "", b"more"
        while not text and block:
            block = self._stream.read(size)
            text = self._decode(block, final=not block)
        return text.encode("utf-8", "replace")
