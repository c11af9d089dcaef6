"""The meaning of S3 errors, when to retry them, and what a store says of an object's bytes.

There are three kinds. Some may pass: the store is overloaded, the connection broke. Some concern this job, not the
object: its credentials have expired, its clock is wrong. The rest concern the object and are final.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from adafv.internals import read_arrived
from adafv.pipeline.errors import JobError, RunError, UsageError
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.store.retry import UnavailableError, is_passing, retry_after

# botocore doesn't wrap the last two: a body that isn't XML, and a connection that broke in a body.
S3_ERRORS = (BotoCoreError, ClientError, ResponseParserError, urllib3.exceptions.HTTPError)

# Credentials may be renewed and clocks set right while a job runs.
RENEWED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed"}
CREDENTIALS = RENEWED | {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "NotSignedUp", "AccountProblem",
    "AuthorizationHeaderMalformed", "MissingAuthenticationToken",
}  # fmt: skip
PASSING = RENEWED | {"SlowDown", "RequestTimeout", "Throttling", "RequestLimitExceeded"}
DEADLINE = 120.0  # seconds for one body: a trickling store never hits a read time-out
CHUNK = 2**18  # bytes


class Damaged(Exception):  # noqa: N818  (becomes an OSError)
    """An answer that isn't what it claims to be."""


def status_of(error: Exception) -> int:
    """The HTTP status of an S3 error; 0 without an answer."""
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """The S3 error code, such as `SlowDown`; empty without an answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, ClientError):
        return code_of(error) in PASSING or is_passing(status_of(error))
    return not isinstance(error, ParamValidationError | NoCredentialsError | PartialCredentialsError)


def is_credentials_error(error: Exception) -> bool:
    """Whether the error concerns this job's credentials or clock, not the object."""
    return code_of(error) in CREDENTIALS or isinstance(error, NoCredentialsError | PartialCredentialsError)


def describe(error: Exception) -> str:
    """The error in a few words, without the request's URL, which may hold a signature."""
    if isinstance(error, Damaged):
        return str(error)
    if isinstance(error, ClientError):
        return f"S3 answered {status_of(error)} {code_of(error)}"
    return type(error).__name__


def delay_of(error: Exception) -> float | None:
    """The `delay` for `retry`: seconds that the store wants to be left alone; None if the error doesn't pass."""
    if not isinstance(error, (*S3_ERRORS, Damaged)) or not may_pass(error):
        return None
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return retry_after(metadata.get("HTTPHeaders", {}))


def promised_md5(bucket: str, answer: Mapping[str, Any]) -> str | None:
    """The MD5 of a whole object from its ETag. None for multipart uploads, customer-key encryption, directory
    buckets and Object Lambdas."""
    etag = _telling_etag(bucket, answer)
    return etag if re.fullmatch(r"[0-9a-f]{32}", etag) else None


def promised_parts(bucket: str, answer: Mapping[str, Any]) -> tuple[str, int] | None:
    """For a multipart upload: the MD5 of its parts' MD5s, and their number, if the ETag tells."""
    found = re.fullmatch(r"([0-9a-f]{32})-([0-9]+)", _telling_etag(bucket, answer))
    return (found[1], int(found[2])) if found else None


def _telling_etag(bucket: str, answer: Mapping[str, Any]) -> str:
    """An object's ETag without quotes; empty if it says nothing about the bytes."""
    other_key = str(answer.get("ServerSideEncryption", "")).startswith("aws:") or answer.get("SSECustomerAlgorithm")
    if other_key or re.search(r"--(x|xa|ol)-s3$", bucket):
        return ""
    return str(answer.get("ETag", "")).strip('"').lower()


def md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def check_md5(data: bytes | bytearray, promised: str | None) -> None:
    """Raises Damaged if the bytes don't match the promised MD5."""
    if promised not in (None, md5(data)):
        raise Damaged("the bytes don't match the object's ETag")


def chunks_of(answer: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of an answer's body as they arrive, so that a deadline also ends a trickle. Raises Damaged if they are
    fewer than announced."""
    came = 0
    while chunk := read_arrived(answer["Body"], CHUNK):
        came += len(chunk)
        yield chunk
    if came < (announced := answer.get("ContentLength", 0)):
        raise Damaged(f"{came} bytes came of {announced}")


def store_error(problem: str, error: Exception) -> JobError:
    """The error for a run that can't begin: RunError if the store is unavailable, else UsageError."""
    cause = error.__cause__ if isinstance(error, OSError) else error
    passing = isinstance(cause, (*S3_ERRORS, Damaged)) and may_pass(cause)
    kind = RunError if passing or isinstance(error, UnavailableError) else UsageError
    return kind(f"{problem}: {safe_message(str(error))}")
