"""Parsing and joining URIs and paths."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import unquote

from adafv.pipeline.errors import UsageError
from adafv.pipeline.redaction import public_uri


def has_scheme(uri: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri) is not None


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def is_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def join(root: str, path: str) -> str:
    """The URI, or absolute local path, of `path`, which may be relative to `root`.

    In object keys only a leading ./ has a meaning: a//b and a/../b are keys of their own.
    """
    if has_scheme(path) and not path.startswith("file://"):
        return path
    if has_scheme(root) and not root.startswith("file://"):
        return f"{root}/{path.removeprefix('./')}"
    whole = os.path.join(local_path(root), local_path(path))
    return whole if ".." in whole.split("/") else os.path.normpath(whole)


def local_path(uri: str) -> str:
    """A local path, also from a file:// URI, whose host, query and fragment are ignored. Python's parser would raise
    for a host such as `[`, and a row may have any."""
    if not uri.startswith("file://"):
        return uri
    _, slash, path = re.split("[?#]", uri.removeprefix("file://"), maxsplit=1)[0].partition("/")
    return unquote(slash + path)


def as_root(root: str) -> str:
    """A folder's URI without its trailing slash, or its absolute local path, for `join`."""
    return root.removesuffix("/") if has_scheme(root) else os.path.abspath(root)


def folder_of(uri: str) -> str:
    """Everything before the last slash. In S3 keys all other slashes are part of the key."""
    return uri.rpartition("/")[0] if has_scheme(uri) else posixpath.dirname(uri)


def split_s3(uri: str) -> tuple[str, str]:
    """(bucket, key) of an s3:// URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or public_uri(uri) != uri:
        raise UsageError(
            f"{public_uri(uri)!r} is no S3 URI: it must be s3://BUCKET/KEY, with the keys to it in the environment"
        )
    return bucket, key
