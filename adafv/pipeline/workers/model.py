"""A model's files on this node, for each way that `--model` can name it.

An s3:// prefix is downloaded once per node, into one folder per version of the model: the listed names, sizes and
ETags. A file gets its name only when its bytes are checked, so an interrupted download continues with the missing
files. A lock keeps a node's processes from downloading at once; the kernel frees it when its holder dies.

A run keeps to the version that it began with, so that workers that start later don't use another model.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adafv.embedded import OWN_MODELS, cache_folder, own_model
from adafv.pipeline.redaction import public_uri
from adafv.pipeline.store.objects import S3Object
from adafv.pipeline.store.s3 import md5
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme, is_s3, split_s3
from adafv.pipeline.workers import hub

if TYPE_CHECKING:
    from adafv.engine import EngineOptions

WEIGHTS = ".safetensors"
UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf")  # unused weight formats
THREADS, RANGE = 8, 16 * 2**20  # ranges downloaded at once, and their bytes
FILES = 2  # at once: one is checked while the next downloads
VERSION = re.compile(r"(s3://.*)#([0-9a-f]{16})", re.DOTALL)


@dataclass(frozen=True)
class Listed:
    """A file of a model, as the store lists it."""

    name: str
    size: int
    etag: str

    @property
    def is_weights(self) -> bool:
        return self.name.endswith(WEIGHTS)


def resolve_model(name: str, storage: Storage, weights: bool = True) -> str:
    """`name` as a folder or Hub id. An s3:// prefix, or a Hub repository at a commit, is downloaded once per node.

    Args:
        weights: whether to download them. Preparing rows needs none.

    Raises:
        OSError: it isn't available, or its version isn't the one that `at_version` gave.
        ValueError: a file's name leaves the folder.
    """
    if name in OWN_MODELS:
        return str(own_model(name))
    return str(_download(name, storage, weights)) if is_s3(name) else str(hub.downloaded(name, weights) or name)


def resolve_text_tower(options: EngineOptions, storage: Storage, weights: bool = True) -> EngineOptions:
    """`options` with their text tower, if any, as a folder or Hub id."""
    tower = options.text_tower
    return options if tower is None else replace(options, text_tower=resolve_model(tower, storage, weights))


def at_version(name: str, storage: Storage, commit: str | None = None) -> str:
    """`name` for a run's workers: an s3:// prefix with its version, a Hub id with its `commit`, a folder as an
    absolute path. Errors as for `resolve_model`."""
    if commit is not None:
        return f"{name}@{commit}"
    if is_s3(name):
        return f"{name}#{_version(_listing(name, storage))}"
    if os.path.isdir(name):
        return os.path.abspath(name)
    if name not in OWN_MODELS and not hub.is_hub_id(name):
        place = public_uri(name) if has_scheme(name) else os.path.abspath(name)  # a URL may hold a password
        what = "a file, and a folder is needed" if os.path.exists(name) else "no folder"
        raise OSError(f"there is {what} at {place}, and it is no hub id (OWNER/NAME) either")
    return name


def _download(name: str, storage: Storage, weights: bool) -> Path:
    """The folder with the files of `name`, downloaded; weights only if asked for."""
    found = VERSION.fullmatch(name)
    uri, wanted = (found[1], found[2]) if found else (name, None)
    files = _listing(uri, storage)
    version = _version(files)
    if wanted not in (None, version):
        raise OSError(f"--model {uri} was replaced since the run began")
    whose = hashlib.blake2b(f"{storage.endpoint} {uri}".encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "models" / whose / version
    for kind, part in (("rest", [file for file in files if not file.is_weights]),
                       ("weights", [file for file in files if file.is_weights and weights])):  # fmt: skip
        if _missing(part, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f"{version}.{kind}.lock")):
                _download_files(uri, _missing(part, folder), folder, storage)
    return folder


def _listing(uri: str, storage: Storage) -> list[Listed]:
    """The model's files, without unused ones."""
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    pages = storage.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = (item for page in pages for item in page.get("Contents", ()))
    files = [Listed(item["Key"].removeprefix(prefix), item["Size"], item["ETag"]) for item in found]
    files = [file for file in files if file.name and not file.name.endswith(("/", *UNREAD))]
    if not files:
        raise FileNotFoundError(f"--model {uri}: there is nothing")
    return sorted(files, key=lambda file: file.name)


def _version(files: Sequence[Listed]) -> str:
    text = "\n".join(f"{file.name} {file.size} {file.etag}" for file in files)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _missing(files: Sequence[Listed], folder: Path) -> list[Listed]:
    """The files that are missing or have another size."""
    paths = {file: folder / file.name for file in files}
    return [file for file, path in paths.items() if not path.is_file() or path.stat().st_size != file.size]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Excludes this node's other processes."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download_files(uri: str, files: Sequence[Listed], folder: Path, storage: Storage) -> None:
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    needed, free = sum(file.size for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"--model {uri} needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left; set ADAFV_CACHE to "
            "a folder on a larger disk",
        )
    client = storage.client(attempts=1)

    def download(file: Listed) -> None:
        target = (folder / file.name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(f"--model {uri} holds {file.name!r}, which leaves the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = S3Object(client, bucket, prefix + file.name)
        if (source.size, source.etag) != (file.size, file.etag):
            raise OSError(f"--model {uri}: {file.name} was replaced while the model was being downloaded")
        part = target.with_name(f"{target.name}.part")
        _download_file(source, part)
        part.rename(target)

    with ThreadPoolExecutor(FILES) as threads:
        list(threads.map(download, files))


def _download_file(source: S3Object, target: Path) -> None:
    """Several ranges at once, each checked for length and version, and the whole by its ETag if that is made of
    MD5s."""
    with target.open("w+b") as file, ThreadPoolExecutor(THREADS) as threads:

        def fetch(start: int) -> None:
            os.pwrite(file.fileno(), source.range(start, min(RANGE, source.size - start)), start)

        list(threads.map(fetch, range(0, source.size, RANGE)))
        if not _matches(source, file.fileno()):
            raise OSError(f"{target.name.removesuffix('.part')} was downloaded, but doesn't match its ETag")
        os.fsync(file.fileno())


def _matches(source: S3Object, file: int) -> bool:
    """Whether the file matches its ETag: the MD5 of the whole, or of its parts' MD5s. Other ETags say nothing."""
    if source.md5 is not None:
        return _md5(file, 0, source.size).hex() == source.md5
    parts = source.parts()
    if parts is None:
        return True
    size, promised = parts
    digests = [_md5(file, start, size) for start in range(0, source.size, size)]
    return md5(b"".join(digests)) == promised


def _md5(file: int, start: int, length: int) -> bytes:
    """The MD5 of up to `length` bytes of the file from `start`."""
    digest = hashlib.md5(usedforsecurity=False)
    while length and (data := os.pread(file, min(length, RANGE), start)):
        digest.update(data)
        start, length = start + len(data), length - len(data)
    return digest.digest()
