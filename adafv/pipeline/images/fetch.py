"""Gets an image's bytes from its path or URI, or a reject with the reason.

Ray Data's `download()` turns a 404, a 403 and a time-out alike into a null. Here each has its own error, and what may
pass (time-outs, resets, 429, 5xx, truncated bodies, ETag mismatches) is retried with growing, jittered pauses. Errors
of the job's own credentials or clock aren't the row's fault: such rows stay retryable.

The data set is not trusted: it must not read this machine's files or network. Local paths must lie in `--image-root` or
`--allow-local` with symbolic links resolved; http(s) needs `--allow-http` and a public address (`http.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
from botocore.exceptions import ParamValidationError

from adafv.pipeline.images.http import Address, Refused, is_public, read_http, read_within
from adafv.pipeline.redaction import public_uri
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row
from adafv.pipeline.store.retry import FIRST_PAUSE, retry
from adafv.pipeline.store.s3 import (
    DEADLINE,
    S3_ERRORS,
    Damaged,
    check_md5,
    chunks_of,
    delay_of,
    describe,
    is_credentials_error,
    may_pass,
    promised_md5,
    status_of,
)
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import has_scheme, is_s3, join, local_path, split_s3

if TYPE_CHECKING:
    from adafv.pipeline.control.gate import Gate  # needs Ray, which readers of an output may not have

THREADS = 16
ATTEMPTS = 5

Key = tuple[str, str]  # an image's URI, and the root that it is relative to


@dataclass(frozen=True)
class Fetcher:
    """Fetches images under one set of rules.

    Attributes:
        max_bytes: the limit per image, and for all images of a row together.
        allow_http: whether http(s) is fetched; `allowed`: from which addresses.
        allow_local: a local folder besides the image root that images may lie in.
        gate: closed when no more rows may be fetched; None without limits.
    """

    storage: Storage
    max_bytes: int
    allow_http: bool = False
    allowed: Address = is_public
    pause: float = FIRST_PAUSE
    allow_local: str | None = None
    gate: Gate | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """The stage: rows in; the rows that the gate admits out, with image bytes or a reject."""
        table = table if self.gate is None else self.gate.admit(table)
        return rows.to_table(self.fetch_rows(rows.from_table(table)))

    def fetch_rows(self, given: Iterable[Row]) -> list[Row]:
        """Fetch the rows' images, each distinct one once."""
        given = list(given)
        shares = Counter(key for row in given for key in _keys(row))
        with ThreadPoolExecutor(THREADS) as threads:
            found = dict(zip(shares, threads.map(lambda key: self._timed(*key), shares), strict=True))
        return [self._with_bytes(row, found, shares) for row in given]

    def _with_bytes(
        self, row: Row, found: Mapping[Key, tuple[bytes | Reject, float]], shares: Mapping[Key, int]
    ) -> Row:
        """The row with all its images, or rejected for the first that failed."""
        row = replace(row, fetch_ms=sum(found[key][1] / shares[key] for key in _keys(row)))
        images, size = [], 0
        for number, image in enumerate(row.images):
            data = found[image.uri, row.image_root or ""][0] if image.uri else image.data or b""
            if isinstance(data, Reject):
                return row.rejected_for(number, data)
            size += len(data)
            if size > self.max_bytes:
                return row.rejected_for(number, _too_large(size, self.max_bytes, several=number > 0))
            images.append(replace(image, uri=None, data=data))
        return replace(row, images=tuple(images))

    def _timed(self, uri: str, root: str) -> tuple[bytes | Reject, float]:
        start = time.perf_counter()
        result = self.fetch(uri, root)
        return result, 1000 * (time.perf_counter() - start)

    def fetch(self, uri: str, root: str) -> bytes | Reject:
        """The bytes at `uri`, which may be relative to `root`, or why they can't be fetched. Never raises."""
        try:
            return retry(
                lambda: self._read(uri, root),
                lambda error: error.retry_after if isinstance(error, Refused) else None,
                attempts=ATTEMPTS, seconds=DEADLINE, first=self.pause,
            )  # fmt: skip
        except Refused as refused:
            return refused.reject

    def _read(self, uri: str, root: str) -> bytes:
        scheme = uri.partition("://")[0].lower() if has_scheme(uri) else ""
        if scheme in ("http", "https"):
            if not self.allow_http:
                raise Refused("image_refused", f"{public_uri(uri)} needs --allow-http")
            return read_http(uri, self.max_bytes, self.allowed)
        if is_s3(uri):
            return self._read_s3(uri)
        if scheme == "file":
            return _read_local(local_path(uri), root, self.max_bytes, self.allow_local)
        if scheme or re.match(r"data:", uri, re.IGNORECASE):
            return self._read_pyarrow(uri, root)
        if has_scheme(root) and not root.startswith("file://"):
            if is_s3(root) and not uri.startswith(("/", "../")):  # paths, not keys
                return self._read_s3(join(root, uri))
            return self._read_pyarrow(_inside(root, uri), root)
        return _read_local(uri, root, self.max_bytes, self.allow_local)

    def _read_s3(self, uri: str) -> bytes:
        bucket, key = split_s3(uri) if re.match(r"s3://[^/@]+/.", uri) and public_uri(uri) == uri else ("", "")
        if not key:
            raise Refused("image_refused", f"{public_uri(uri)} is not s3://BUCKET/KEY")
        try:
            answer = self.storage.client(attempts=1).get_object(Bucket=bucket, Key=key)
            with contextlib.closing(answer["Body"]):
                if answer.get("ContentLength", 0) > self.max_bytes:
                    raise Refused.of(_too_large(answer["ContentLength"], self.max_bytes))
                data = read_within(chunks_of(answer), self.max_bytes)
            check_md5(data, promised_md5(bucket, answer))
        except (*S3_ERRORS, Damaged) as error:
            raise _s3_refusal(uri, error) from error
        return data

    def _read_pyarrow(self, uri: str, root: str) -> bytes:
        """From a store that pyarrow knows, if the image root is on it."""
        if not has_scheme(root) or not uri.startswith(root.rstrip("/") + "/") or uri != _inside(root, uri):
            opened = "only s3://, http(s):// and what lies in --image-root is opened"
            raise Refused("image_refused", f"{public_uri(uri)[:200]!r}: {opened}")
        # What a row says must not be parsed: pyarrow takes options from a URI, such as another server.
        filesystem, folder = self.storage.filesystem(root)
        path = f"{folder.rstrip('/')}/{uri.removeprefix(root.rstrip('/') + '/')}"
        try:
            with filesystem.open_input_file(path) as file:
                if file.size() > self.max_bytes:
                    raise Refused.of(_too_large(file.size(), self.max_bytes))
                return file.read()
        except FileNotFoundError as error:
            raise Refused("image_not_found", f"nothing at {public_uri(uri)}") from error
        except (OSError, pa.ArrowException) as error:
            raise Refused("image_fetch_failed", f"{public_uri(uri)}: {error}", retry_after=0.0) from error


def _s3_refusal(uri: str, error: Exception) -> Refused:
    status, message = status_of(error), f"{public_uri(uri)}: {describe(error)}"
    if isinstance(error, ParamValidationError):
        return Refused("image_refused", f"{public_uri(uri)} is not s3://BUCKET/KEY")
    if may_pass(error) or is_credentials_error(error):
        return Refused("image_fetch_failed", message, delay_of(error))
    if status == 404:
        return Refused("image_not_found", message)
    return Refused("image_forbidden" if status in (401, 403) else "image_refused", message)


def _inside(root: str, uri: str) -> str:
    """`uri`, relative to the folder `root` or below it, with `..` resolved; refused if it leaves `root`."""
    root = root.rstrip("/")
    relative = uri.removeprefix(root + "/")
    normal = posixpath.normpath(relative)
    if relative.startswith("/") or normal == ".." or normal.startswith("../"):
        raise Refused("image_refused", f"{uri!r} leaves the image root")
    return f"{root}/{normal}"


def _read_local(path: str, root: str, max_bytes: int, allowed: str | None = None) -> bytes:
    """A regular file in the local folder `root` or in `allowed`, with links resolved."""
    root = local_path(root)
    if "\0" in path or has_scheme(root):
        raise Refused("image_refused", f"{path[:200]!r} is not a path in the image root {public_uri(root)}")
    try:
        real_root = os.path.realpath(root)
        real = os.path.realpath(os.path.join(real_root, path))
        real_allowed = None if allowed is None else os.path.realpath(allowed)
        if not any(os.path.commonpath((folder, real)) == folder for folder in (real_root, real_allowed or real_root)):
            leaves = f"leaves the image root {root} for {os.path.dirname(real)}"
            raise Refused(
                "image_refused", f"{path!r} {leaves}; add --allow-local {_store_of(real, real_root, real_allowed)}"
            )
        # Non-blocking: opening a pipe would wait for a writer for ever.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refused("image_refused", f"{path!r} is not a regular file")
            if status.st_size > max_bytes:
                raise Refused.of(_too_large(status.st_size, max_bytes))
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused("image_not_found", f"no file {path!r} in {root}") from error
    except IsADirectoryError as error:
        raise Refused("image_refused", f"{path!r} is a folder") from error
    except PermissionError as error:
        raise Refused("image_forbidden", f"{path!r}: permission denied") from error
    except (OSError, ValueError) as error:  # link loops, unencodable names, disk errors
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise Refused("image_not_found", f"{path[:200]!r}: no file has so long a name") from error
        raise Refused("image_fetch_failed", f"{path[:200]!r}: {error}") from error


def _store_of(file: str, root: str, allowed: str | None) -> str:
    """The folder to allow so that `file`, and other links into the same store, can be read: the one beside `root` or
    beside a parent of it, such as blobs/ beside snapshots/ in a Hugging Face cache."""
    above = os.path.commonpath((root, file))
    parts = os.path.relpath(os.path.dirname(file), above).split(os.sep)
    store = os.path.normpath(os.path.join(above, *parts[: 2 if above == os.sep else 1]))
    return store if allowed is None else os.path.commonpath((store, allowed))


def _keys(row: Row) -> Iterator[Key]:
    """The row's images that need fetching."""
    return ((image.uri, row.image_root or "") for image in row.images if image.uri)


def _too_large(size: int, limit: int, several: bool = False) -> Reject:
    together = " with those before it" if several else ""
    return Reject("image_too_large", f"{size} bytes{together}; the limit is {limit}")
