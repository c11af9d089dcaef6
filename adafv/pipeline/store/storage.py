"""Where S3 is and with which keys: one `Storage`, made by the driver and sent to every stage.

Endpoint, region and keys come from the standard AWS environment variables, captured once in the driver, because workers
elsewhere have another environment. Without keys, each node uses its own credentials (profile, instance role). The class
isn't a dataclass and its repr shows nothing, because Ray exports a stage's arguments to its dashboard and logs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import boto3
import pyarrow.fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.hub import hub_filesystem
from adafv.pipeline.store.objects import S3Handler
from adafv.pipeline.uris import has_scheme, is_hub, is_s3, split_s3

_OF_URIS = "/?#%:@!$&'()*+,;=~"  # characters that a URI's path and options may have; others are quoted
CONNECT, READ = 10, 30  # seconds to connect, and to wait for the next bytes


class Storage:
    """How to reach S3. Equal storages share one client per process."""

    def __init__(self, endpoint: str | None = None, region: str | None = None, keys: tuple[str, ...] = ()) -> None:
        self.endpoint, self.region = endpoint, region
        self._keys = keys  # (access key, secret key) or (access key, secret key, session token)

    @classmethod
    def from_environment(cls, endpoint: str | None = None, environment: Mapping[str, str] = os.environ) -> Storage:
        """Read the standard AWS variables; `endpoint` (an option) overrides AWS_ENDPOINT_URL."""
        get = environment.get
        endpoint = endpoint or get("AWS_ENDPOINT_URL_S3") or get("AWS_ENDPOINT_URL") or None
        region = get("AWS_REGION") or get("AWS_DEFAULT_REGION") or None
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        keys = tuple(value for value in (get(name) for name in names) if value)
        return cls(endpoint, region, keys if len(keys) >= 2 else ())

    def __repr__(self) -> str:
        return "Storage(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return self.endpoint, self.region, self._keys

    def client(self, attempts: int = 8) -> Any:
        """A boto3 S3 client, shared by this process's threads, that makes up to `attempts` per request."""
        try:
            return _client(self, attempts)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"S3 can't be asked with this endpoint, region or profile: {error}") from error

    def filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system of `uri` (or local path), and its path there."""
        if is_s3(uri):
            bucket, key = split_s3(uri)
            return _s3_filesystem(self), f"{bucket}/{key}".rstrip("/")
        if is_hub(uri):
            return hub_filesystem(), uri.removeprefix("hf://")
        if not has_scheme(uri):
            return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
        host, slash, path = uri.partition("://")[2].partition("/")
        try:
            whole = f"{uri.partition('://')[0]}://{host}{slash}{quote(path, safe=_OF_URIS)}"
            return pyarrow.fs.FileSystem.from_uri(whole)
        except (ValueError, NotImplementedError) as error:
            raise UsageError(f"{uri!r} can't be opened: {error}") from error


@lru_cache(maxsize=8)
def _client(storage: Storage, attempts: int) -> Any:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    session = boto3.session.Session(**dict(zip(names, storage._keys, strict=False)), region_name=storage.region)
    config = Config(
        retries={"total_max_attempts": attempts, "mode": "standard"},
        connect_timeout=CONNECT,
        read_timeout=READ,
        max_pool_connections=32,
        # Some S3-compatible stores refuse checksums that S3 doesn't require.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if storage.endpoint else {},
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=storage.endpoint, region_name=region, config=config)


@lru_cache(maxsize=8)
def _s3_filesystem(storage: Storage) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.PyFileSystem(S3Handler(storage.client(attempts=1)))
