"""Where a model's files are on this node, for each way in which `--model` can name it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adafv.pipeline.objects import S3Object
from adafv.pipeline.storage import Storage, is_s3, split_s3
from adafv.testbed import CHECKPOINTS

if TYPE_CHECKING:
    from adafv.engine import EngineOptions

COMPLETE = ".complete"
THREADS, RANGE = 8, 16 * 2**20  # so many ranges of so many bytes are downloaded at once


def resolve_model(name: str, storage: Storage) -> str:
    """`name` as a folder or hub id. The testbed's models are embedded; an s3:// prefix is downloaded once per node."""
    if name in CHECKPOINTS:
        from adafv.testbed.model import checkpoint

        return str(checkpoint(name))
    return str(_download(name, storage)) if is_s3(name) else name


def resolve_text_tower(options: EngineOptions, storage: Storage) -> EngineOptions:
    """`options` with their text tower, if they have one, as a folder or hub id."""
    tower = options.text_tower
    return options if tower is None else replace(options, text_tower=resolve_model(tower, storage))


def absolute_model(name: str) -> str:
    """A local folder by its full path: the workers' current folder is another."""
    return os.path.abspath(name) if os.path.isdir(name) else name


def cache_folder() -> Path:
    """Where downloaded models are kept: ADAFV_CACHE, or the user's cache folder."""
    return Path(os.environ.get("ADAFV_CACHE") or Path.home() / ".cache" / "adafv")


def _download(uri: str, storage: Storage) -> Path:
    """The files under `uri`. A lock keeps the node's processes from downloading twice, and a marker that is written
    last tells a whole download from one that was cut off."""
    name = hashlib.blake2b(f"{storage.endpoint} {uri}".encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)  # what was cut off is begun again: the model may be another by now
            folder.mkdir()
            _download_files(uri, folder, storage)
            (folder / COMPLETE).touch()
    return folder


def _download_files(uri: str, folder: Path, storage: Storage) -> None:
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    client = storage.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    names = [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]
    files = [name for name in names if name and not name.endswith("/")]
    if not files:
        raise FileNotFoundError(f"--model {uri}: there is nothing")
    for name in files:
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(f"--model {uri} holds {name!r}, which leaves the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        _download_file(S3Object(storage.client(attempts=1), bucket, prefix + name), target)


def _download_file(source: S3Object, target: Path) -> None:
    """Several ranges at once, each checked for its length, and the whole by its ETag where that is its MD5."""
    with target.open("w+b") as file, ThreadPoolExecutor(THREADS) as threads:

        def fetch(start: int) -> None:
            os.pwrite(file.fileno(), source.range(start, min(RANGE, source.size - start)), start)

        list(threads.map(fetch, range(0, source.size, RANGE)))
        if source.md5 not in (None, hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()):
            raise OSError(f"{target.name} was downloaded, but doesn't match its ETag")
        os.fsync(file.fileno())
