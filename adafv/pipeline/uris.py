"""What a URI or path names: where it lies, and the parts of an s3:// one."""

from __future__ import annotations

import re

from adafv.pipeline.errors import UsageError
from adafv.pipeline.redaction import public_uri


def has_scheme(uri: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri) is not None


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def split_s3(uri: str) -> tuple[str, str]:
    """(bucket, key) of an s3:// URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or public_uri(uri) != uri:
        raise UsageError(
            f"{public_uri(uri)!r} is no S3 URI: it must be s3://BUCKET/KEY, with the keys to it in the environment"
        )
    return bucket, key
