"""The output folder, local or on S3: whole files or none.

A reader that lists `labels/` while a job runs must never open half a file. On S3 one put makes an object appear at
once. On a disk a file is written under `.tmp/`, flushed to the device and renamed into place. The driver is the only
writer, so nothing else is needed here.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import pyarrow.fs

from adafv.pipeline.errors import UsageError
from adafv.pipeline.storage import Storage, has_scheme, is_s3, split_s3


class Output(Protocol):
    """A folder that files are put into, whole, under names such as `labels/x.parquet`."""

    uri: str

    def put(self, name: str, data: bytes) -> None:
        """Make `data` appear as `name`, all at once."""

    def read(self, name: str) -> bytes | None:
        """The contents of `name`, or None where there is no such file."""

    def parquet_files(self, folder: str) -> list[str]:
        """The paths, on `filesystem`, of the Parquet files in `folder`, sorted."""

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What `parquet_files` lie on."""


def open_output(uri: str, storage: Storage) -> Output:
    """The output at `uri`: a local path, file:// or s3://."""
    if is_s3(uri):
        return S3Output(uri, storage)
    if uri.startswith("file://"):
        return LocalOutput(unquote(urlsplit(uri).path))
    if has_scheme(uri):
        raise UsageError(f"--output is {uri!r}; it must be a local folder or an s3:// URI")
    return LocalOutput(uri)


class LocalOutput:
    """An output on a disk."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).absolute()
        self.uri = str(self.root)
        self.filesystem = pyarrow.fs.LocalFileSystem()

    def put(self, name: str, data: bytes) -> None:
        target, temporary = self.root / name, self.root / ".tmp" / uuid.uuid4().hex
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def parquet_files(self, folder: str) -> list[str]:
        return sorted(str(path) for path in (self.root / folder).glob("*.parquet") if not path.name.startswith("."))


class S3Output:
    """An output under an s3:// prefix."""

    def __init__(self, uri: str, storage: Storage) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, prefix = split_s3(uri)
        self.prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self._client = storage.client()
        self.filesystem, _ = storage.filesystem(uri)

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def read(self, name: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def parquet_files(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(f"{self.bucket}/{key}" for key in keys if key.endswith(".parquet"))


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
