"""Texts that are safe to show: without secrets, short, and with characters that Parquet and terminals can hold.

People share messages, so these carry no credentials: no query of a presigned URL, no user name or password before an
`@`, no values of signatures and keys.
"""

from __future__ import annotations

import re

MESSAGE_LIMIT = 500  # characters


def safe_message(text: str) -> str:
    """`text` redacted, printable, and cut to `MESSAGE_LIMIT` characters."""
    return "".join(character if character.isprintable() else " " for character in shorten(redact(text), MESSAGE_LIMIT))


def redact(text: str) -> str:
    """`text` without the user info, query and fragment of URIs, and without signatures and keys. Linear time: the text
    may be hostile."""
    return _SECRET.sub(r"\1…", _URI.sub(lambda m: m["scheme"] + m["rest"] + ("?…" if m["query"] else ""), text))


def public_uri(uri: str) -> str:
    """`uri` without user info and query, which may sign it. In S3 keys and file names `?` and `#` are ordinary
    characters."""
    scheme, mark, _ = uri.partition("://")
    marks = {"http": "?#", "https": "?#", "s3": "", "file": ""}.get(scheme.lower(), "?") if mark else ""
    end = min((at for mark in marks if (at := uri.find(mark)) >= 0), default=len(uri))
    return _USER.sub(r"\1", uri[:end]) + ("?…" if end < len(uri) else "")


def clean(text: str) -> str:
    """`text` with unpaired surrogates, which UTF-8 can't hold, replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


_SURROGATE = re.compile(r"[\ud800-\udfff]")
# A password may contain a slash, as AWS secret keys do, unless the part before it looks like a port. The search is
# bounded, so that a hostile text can't take long.
_SCHEME, _USER_INFO = r"[A-Za-z0-9+.-]+://", r"[^\s/?#@:'\"]*(?::(?!\d{1,5}/)[^\s?#]{0,300})?@"
_URI = re.compile(
    rf"(?<![A-Za-z0-9+.-])(?P<scheme>{_SCHEME})(?:{_USER_INFO})?(?P<rest>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?"
)
_USER = re.compile(rf"^({_SCHEME})[^/?#@:]*(?::(?!\d{{1,5}}/)[^?#]*)?@")
_SECRET = re.compile(
    r"\b((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|password|"
    r"(?:access_|session_|auth_)?token|(?:aws_)?secret_access_key)=)[^\s&'\"]+",
    re.IGNORECASE,
)
