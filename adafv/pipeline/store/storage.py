"""Where S3 is and with which keys: one `Storage`, made by the driver and sent to every stage.

Endpoint, region and keys come from the standard AWS environment variables. They are captured once in the driver,
because a worker on another node, or in a Ray cluster that was started earlier, has another environment; where no keys
are set, each node uses its own credentials (profile, instance role). The class is no dataclass and its repr shows
nothing, because Ray exports the arguments of a stage, dataclasses field by field, to its dashboard and logs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import boto3
import pyarrow.fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.hub import hub_filesystem
from adafv.pipeline.store.objects import S3Handler
from adafv.pipeline.uris import has_scheme, is_hub, is_s3, split_s3

CONNECT, READ = 10, 30  # seconds for one attempt to connect, and to wait for the next bytes of an answer


class Storage:
    """How to reach S3. Equal storages share one client per process."""

    def __init__(self, endpoint: str | None = None, region: str | None = None, keys: tuple[str, ...] = ()) -> None:
        self.endpoint, self.region = endpoint, region
        self._keys = keys  # (access key, secret key) or (access key, secret key, session token)

    @classmethod
    def from_environment(cls, endpoint: str | None = None, environment: Mapping[str, str] = os.environ) -> Storage:
        """Read the standard AWS variables; `endpoint` (an option) wins over AWS_ENDPOINT_URL."""
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
        """A boto3 S3 client, shared by the threads of this process, that tries each request `attempts` times."""
        try:
            return _client(self, attempts)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"S3 can't be asked with this endpoint, region or profile: {error}") from error

    def filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system that `uri` (or local path) lies on, and its path there."""
        if is_s3(uri):
            bucket, key = split_s3(uri)
            return _s3_filesystem(self), f"{bucket}/{key}".rstrip("/")
        if is_hub(uri):
            return hub_filesystem(), uri.removeprefix("hf://")
        if not has_scheme(uri):
            return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
        try:
            return pyarrow.fs.FileSystem.from_uri(uri)
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
        # Checksums beyond what S3 requires are refused by some S3-compatible stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if storage.endpoint else {},
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=storage.endpoint, region_name=region, config=config)


@lru_cache(maxsize=8)
def _s3_filesystem(storage: Storage) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.PyFileSystem(S3Handler(storage.client(attempts=1)))
