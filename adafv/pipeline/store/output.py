"""The output folder, local or on S3: whole files or none.

A reader that lists `labels/` while a job runs must never open half a file. On S3 a put makes an object appear at once;
on a disk a file is written under `.tmp/`, synced and renamed. The driver that holds the output's lease (`lease.py`) is
the only writer, but it must not write once another job may hold the lease. So `guard` is called right before a file can
appear, and each attempt at a put is one request of bounded length, which ends before the lease can expire.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pyarrow.fs
from botocore.exceptions import ClientError

from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.retry import retry
from adafv.pipeline.store.s3 import delay_of, describe, status_of
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme, is_s3, local_path, split_s3

LOG = logging.getLogger("adafv")
PATIENCE = 180.0  # seconds to retry a failed put
EMPTY = 60.0  # seconds after which an empty temporary file is nobody's


class Output(ABC):
    """A folder that holds whole files under names such as `labels/x.parquet`.

    Args:
        filesystem: its file system; `root`: its path there, with a slash at the end unless empty.

    Attributes:
        guard: called before each attempt to put a file; raises if this process may no longer write.
        settling: seconds after which the outcome of a contested `create` can be read.
        landing: seconds in which a killed process's last put may still appear.
    """

    settling, landing = 0.0, 0.0

    def __init__(self, uri: str, filesystem: pyarrow.fs.FileSystem, root: str) -> None:
        self.uri, self.filesystem, self.root = uri, filesystem, root
        self.guard: Callable[[], None] = lambda: None

    @abstractmethod
    def put(self, name: str, data: bytes, patience: float = PATIENCE) -> None:
        """Make `data` appear as `name`, all at once, retrying passing errors for `patience` seconds. After a failure
        it may have appeared all the same, so retry under the same `name`."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Write `name` only if it doesn't exist. On a disk the first of several contenders does, and the name exists
        before the data; on S3 the store decides."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The contents of `name`; None if there is no such file."""

    @abstractmethod
    def age(self, name: str) -> float | None:
        """Seconds since `name` was written, by the store's clock; None if there is no such file."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names of the files in `folder`, such as `labels/x.parquet`, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove `name`, if it is there."""

    def sweep(self) -> None:  # noqa: B027  (S3 has nothing to do)
        """Remove what a killed writer left half-written. Only for the only writer."""

    def parquet_files(self, folder: str) -> list[str]:
        """The paths, on `filesystem`, of the Parquet files in `folder`, sorted."""
        names = (name for name in self.names(folder) if not name.startswith(f"{folder}/."))
        return [f"{self.root}{name}" for name in names if name.endswith(".parquet")]


def open_output(uri: str, storage: Storage) -> Output:
    """The output at `uri`: a local path, file:// or s3://."""
    if is_s3(uri):
        return S3Output(uri, storage)
    if uri.startswith("file://"):
        return LocalOutput(local_path(uri))
    if has_scheme(uri):
        raise UsageError(f"--output is {uri!r}; it must be a local folder or an s3:// URI")
    return LocalOutput(uri)


class LocalOutput(Output):
    def __init__(self, path: str) -> None:
        self._folder = Path(path).absolute()
        super().__init__(str(self._folder), pyarrow.fs.LocalFileSystem(), f"{self._folder}/")

    def put(self, name: str, data: bytes, patience: float = PATIENCE) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._temporary(data) as temporary:
            self.guard()
            os.replace(temporary, target)
        _sync_folder(target.parent)

    @contextlib.contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        """A file with `data` under .tmp/. It is gone afterwards, so that a full disk isn't kept full."""
        path = self._folder / ".tmp" / uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), target.open("xb") as file:  # O_EXCL
            file.write(data)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def age(self, name: str) -> float | None:
        try:
            written = (self._folder / name).stat().st_mtime
        except FileNotFoundError:
            return None
        with self._temporary(b"") as now:  # by a network drive's clock, which may differ from this machine's
            return now.stat().st_mtime - written

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(f"{folder}/{name}" for name in os.listdir(self._folder / folder))
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """An empty file may be a contender's that asks for the lease at this moment, unless it is old."""
        for path in (self._folder / ".tmp").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_size or time.time() - found.st_mtime > EMPTY:
                    path.unlink()


class S3Output(Output):
    settling, landing = 1.0, 5.0

    def __init__(self, uri: str, storage: Storage) -> None:
        self.bucket, prefix = split_s3(uri)
        self.prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        super().__init__(uri.rstrip("/"), storage.filesystem(uri)[0], f"{self.bucket}/{self.prefix}")
        self._client, self._writer = storage.client(attempts=4), storage.client(attempts=1)

    def put(self, name: str, data: bytes, patience: float = PATIENCE) -> None:
        def attempt() -> None:
            self.guard()
            self._writer.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

        def warn(error: Exception) -> None:
            LOG.warning("%s/%s could not be written (%s); trying again", self.uri, name, describe(error))

        retry(attempt, delay_of, seconds=patience, on_retry=warn)

    def create(self, name: str, data: bytes) -> None:
        try:
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data, IfNoneMatch="*")
        except ClientError as error:
            # 412: it exists. 409: another such request is in progress.
            if status_of(error) not in (409, 412):
                raise

    def read(self, name: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def age(self, name: str) -> float | None:
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=self.prefix + name)
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (now - answer["LastModified"]).total_seconds()

    def names(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(key.removeprefix(self.prefix) for key in keys)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=self.prefix + name)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
