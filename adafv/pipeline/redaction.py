"""Texts that may be shown: without secrets, short, and of characters that Parquet and terminals can hold.

Messages end up in files that people share, so they carry no credentials: the query of a presigned URL, user names and
passwords before an `@`, the values of signatures and keys.
"""

from __future__ import annotations

import re

MESSAGE_LIMIT = 500  # characters


def safe_message(text: str) -> str:
    """`text` without credentials, of characters that can be shown, cut to `MESSAGE_LIMIT` of them."""
    return "".join(character if character.isprintable() else " " for character in shorten(redact(text), MESSAGE_LIMIT))


def redact(text: str) -> str:
    """`text` without secrets: the user information, query and fragment of every URI, the values of signatures and keys.

    Takes time in proportion to the text, whatever it is: it may come from a data set.
    """
    return _SECRET.sub(r"\1…", _URI.sub(lambda m: m["scheme"] + m["rest"] + ("?…" if m["query"] else ""), text))


def public_uri(uri: str) -> str:
    """`uri`, as a whole one, without user information and query, which may sign it. In S3's keys, as in the names of
    files, a question mark is a character like others; so is `#`, but in http."""
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
# A password may hold a slash, as AWS's secret keys do, unless what stands before that slash looks like a port. In texts
# it is sought within bounds, lest a hostile one take long.
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
