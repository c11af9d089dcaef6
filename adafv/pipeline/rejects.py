"""Why a row could not be labelled: a short closed list of errors, and `Reject`, which carries one through the stages.

A bad row is a value, never an exception: Ray Data loses a whole block to an exception, or hides the loss. So each
stage fills in a row's reject and passes the row on, and the sink writes it to `rejects/` with its reason.

Messages end up in files that people share, so they carry no credentials (the query of a presigned URL, user names
and passwords before an `@`), are short, and hold nothing that Parquet or a terminal chokes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MESSAGE_LIMIT = 500  # characters


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """One entry of the list: the stage that finds it, and whether the same command may succeed later."""

    stage: str
    meaning: str
    retryable: bool = False


ERRORS: dict[str, ErrorClass] = {
    "missing_id": ErrorClass("source", "the row's id is null, empty or absent"),
    "duplicate_id": ErrorClass("source", "an earlier row of the input has the same id"),
    "bad_row": ErrorClass("source", "the row can't be parsed, or a column has the wrong type"),
    "source_unreadable": ErrorClass("source", "an input file, or the rest of it, can't be read", retryable=True),
    "image_missing": ErrorClass("source", "the row has no image"),
    "prompt_incomplete": ErrorClass("source", "a column that --prompt names is null or absent"),
    "image_refused": ErrorClass("fetch", "the image's path or URI is one that the job must not open"),
    "image_not_found": ErrorClass("fetch", "there is nothing at the image's path or URI"),
    "image_forbidden": ErrorClass("fetch", "the store denies access to the image"),
    "image_too_large": ErrorClass("fetch", "the image has more bytes than --max-image-bytes"),
    "image_fetch_failed": ErrorClass("fetch", "the image could not be fetched, after retries", retryable=True),
    "image_empty": ErrorClass("decode", "the image has no bytes"),
    "image_format": ErrorClass("decode", "the bytes are no image of a format that is allowed"),
    "image_too_many_pixels": ErrorClass("decode", "the image has more pixels than --max-image-pixels"),
    "image_corrupt": ErrorClass("decode", "the image can't be decoded: truncated or damaged"),
    "image_unsupported": ErrorClass("prepare", "the model's processor can't handle an image of this shape"),
    "prompt_empty": ErrorClass("prepare", "nothing is left of the prompt"),
    "prompt_encoding": ErrorClass("prepare", "the prompt is no valid Unicode"),
    "prompt_placeholder": ErrorClass("prepare", "the prompt contains the model's image placeholder"),
    "prompt_too_long": ErrorClass("prepare", "prompt, image and answer exceed the model's context"),
    "prepare_died": ErrorClass("prepare", "decoding the image killed its process, or took over --image-timeout"),
    "out_of_memory": ErrorClass("label", "the device has too little memory for this row alone"),
    "label_failed": ErrorClass("label", "the model raised an error on this row"),
    "worker_died": ErrorClass("label", "the row killed the model's process, or hung it for --batch-timeout, each time"),
}


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a row could not be labelled. `error` is a key of `ERRORS`; `message` is safe to show."""

    error: str
    message: str

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise ValueError(f"error is {self.error!r}; it must be one of {', '.join(ERRORS)}")
        object.__setattr__(self, "message", safe_message(self.message))

    @property
    def stage(self) -> str:
        return ERRORS[self.error].stage

    @property
    def retryable(self) -> bool:
        return ERRORS[self.error].retryable


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
