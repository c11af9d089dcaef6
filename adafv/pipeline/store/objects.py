"""S3 as a file system for pyarrow: reads give what the object holds, or an error.

pyarrow's own S3 files trust the first answer: a range that comes back short is filled with old memory, and a file
replaced while it is read is a mixture. Here each answer's length is checked, each range must be of the same version
(`If-Match`), whole objects are checked against the MD5 in their ETag, and what may pass is retried. Other failures are
OSErrors whose cause tells their kind, unlike pyarrow's.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileInfo, FileType

from adafv.pipeline.store.retry import retry
from adafv.pipeline.store.s3 import (
    DEADLINE,
    S3_ERRORS,
    Damaged,
    check_md5,
    chunks_of,
    delay_of,
    describe,
    promised_md5,
    promised_parts,
    status_of,
)

ATTEMPTS = 6
WHOLE = 32 * 2**20  # bytes: smaller objects are streamed in one request
READ_AHEAD = 8 * 2**20
PAGE = 1000  # objects per listing request, S3's maximum
T = TypeVar("T")


class S3Object:
    """One version of an object: the current one when this is made.

    Attributes:
        size: in bytes; `modified`: in seconds since 1970.
        md5: of the whole, if the ETag tells; `etag`: as the store has it.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client, self._bucket, self._key = client, bucket, key
        answer = self._tried(lambda: client.head_object(Bucket=bucket, Key=key))
        self.size: int = answer["ContentLength"]
        self.modified: float = answer["LastModified"].timestamp()
        self.md5 = promised_md5(bucket, answer)
        self.etag: str = answer["ETag"]
        self._parts = promised_parts(bucket, answer)

    def parts(self) -> tuple[int, str] | None:
        """The size of the upload's parts, except the last, and the MD5 of their joined MD5s, if the ETag is made of
        these and the store tells the size."""
        if self._parts is None:
            return None
        digest, count = self._parts
        ask = partial(self._client.head_object, Bucket=self._bucket, Key=self._key, PartNumber=1, IfMatch=self.etag)
        size = self._tried(ask)["ContentLength"]
        return (size, digest) if size and -(-self.size // size) == count else None

    def range(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. Raises OSError."""
        return self._tried(lambda: self._get(start, length))

    def _get(self, start: int, length: int) -> bytes:
        answer = self._client.get_object(
            Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{start + length - 1}", IfMatch=self.etag
        )
        data, end = bytearray(), time.monotonic() + DEADLINE
        for chunk in chunks_of(answer):
            data += chunk
            if time.monotonic() > end:
                raise Damaged(f"{len(data)} bytes of {length} came in {DEADLINE:.0f} s")
        if len(data) != length:
            raise Damaged(f"{len(data)} bytes came of {length}")
        if length == self.size:
            check_md5(data, self.md5)
        return bytes(data)

    def _tried(self, request: Callable[[], T]) -> T:
        return _tried(f"s3://{self._bucket}/{self._key}", request)


def _tried(place: str, request: Callable[[], T]) -> T:
    """The result of `request`, retried while that may help."""
    try:
        return retry(request, delay_of, attempts=ATTEMPTS)
    except (*S3_ERRORS, Damaged) as error:
        if status_of(error) == 404:
            raise FileNotFoundError(f"{place}: there is nothing") from error
        if status_of(error) == 412:
            raise OSError(f"{place} was replaced while it was being read") from error
        raise OSError(f"{place}: {describe(error)}") from error


class ObjectFile(io.RawIOBase):
    """An object as a file.

    Args:
        streamed: it will be read from start to end, so read ahead.
    """

    def __init__(self, source: S3Object, streamed: bool) -> None:
        super().__init__()
        self._object, self._size = source, source.size
        self._ahead = (self._size if self._size <= WHOLE else READ_AHEAD) if streamed else 0
        self._at = self._start = 0
        self._held = b""  # the last read, from `_start` on

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, or all that are left; fewer only at the end of the object."""
        left = max(0, self._size - self._at)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        if not self._start <= self._at <= self._at + size <= self._start + len(self._held):
            self._held, self._start = self._object.range(self._at, min(max(size, self._ahead), left)), self._at
        start = self._at - self._start
        self._at += size
        return self._held[start : start + size]


class S3Handler(pyarrow.fs.FileSystemHandler):
    """A read-only file system. Paths are BUCKET/KEY, and a folder is the part of keys before a slash."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[FileInfo]:
        assert selector.recursive
        bucket, _, key = selector.base_dir.partition("/")
        found = []
        for item in self._list(bucket, key):  # a key that ends with a slash is a folder, unless it has bytes
            folder = FileType.Unknown if item["Size"] else FileType.Directory
            type = folder if item["Key"].endswith("/") else FileType.File
            found.append(FileInfo(f"{bucket}/{item['Key']}", type, size=item["Size"]))
        return found

    def _info(self, path: str) -> FileInfo:
        bucket, _, key = path.partition("/")
        try:
            found = S3Object(self._client, bucket, key) if key else None
        except FileNotFoundError:
            found = None
        if found is not None:
            return FileInfo(path, FileType.File, size=found.size, mtime=found.modified)
        return FileInfo(path, FileType.Directory if any(self._list(bucket, key)) else FileType.NotFound)

    def _list(self, bucket: str, key: str) -> Iterator[dict[str, Any]]:
        """S3's listing of the objects in the folder `key`."""
        prefix, further = (f"{key}/" if key else ""), dict[str, str]()
        while True:
            ask = partial(self._client.list_objects_v2, Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **further)
            answer = _tried(f"s3://{bucket}/{prefix}", ask)
            yield from answer.get("Contents", ())
            if not answer["IsTruncated"]:
                return
            further = {"ContinuationToken": answer["NextContinuationToken"]}

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._open(path, streamed=False)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._open(path, streamed=True)

    def _open(self, path: str, streamed: bool) -> pa.NativeFile:
        bucket, _, key = path.partition("/")
        return pa.PythonFile(ObjectFile(S3Object(self._client, bucket, key), streamed), mode="r")

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:
        raise NotImplementedError("this file system is only read from")

    open_output_stream = open_append_stream = copy_file = move = _refuse
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
