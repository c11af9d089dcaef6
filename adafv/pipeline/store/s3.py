"""What an S3 error means for whoever asked, when to ask again, and what a store says of an object's bytes.

A store's errors are of three kinds. Some pass: it is overloaded, the connection broke. Some speak of this job, not of
the object: its credentials have expired, its clock is wrong. The rest are about the object, and final.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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

from adafv.pipeline.errors import JobError, RunError, UsageError
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.store.retry import AwayError, is_passing, wished_pause

# The last two slip through botocore: a body that is no XML, and a connection that broke while a body was read.
S3_ERRORS = (BotoCoreError, ClientError, ResponseParserError, urllib3.exceptions.HTTPError)

# A role's credentials are renewed, and clocks are set right, while a job runs.
RENEWED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed"}
OURS = RENEWED | {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "NotSignedUp", "AccountProblem",
    "AuthorizationHeaderMalformed", "MissingAuthenticationToken",
}  # fmt: skip
PASSING = RENEWED | {"SlowDown", "RequestTimeout", "Throttling", "RequestLimitExceeded"}
DEADLINE = 120.0  # seconds for one body: a store that trickles bytes never runs into the time-out of a single read


class Damaged(Exception):  # noqa: N818  (becomes an OSError)
    """An answer that isn't what it says it is."""


def status_of(error: Exception) -> int:
    """The HTTP status of an S3 error; 0 where there was no answer."""
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """The code that S3 gave the error, such as `SlowDown`; empty where there was no answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, ClientError):
        return code_of(error) in PASSING or is_passing(status_of(error))
    return not isinstance(error, ParamValidationError | NoCredentialsError | PartialCredentialsError)


def is_ours(error: Exception) -> bool:
    """Whether the error speaks of this job's credentials or clock, so that no object is at fault."""
    return code_of(error) in OURS or isinstance(error, NoCredentialsError | PartialCredentialsError)


def is_away(error: BaseException) -> bool:
    """Whether the error, or what an OSError was raised from, is a store's that may pass."""
    cause = error.__cause__ if isinstance(error, OSError) else error
    return isinstance(error, AwayError) or (isinstance(cause, (*S3_ERRORS, Damaged)) and may_pass(cause))


def describe(error: Exception) -> str:
    """The error in a few words, without the request's URL, which may hold a signature."""
    if isinstance(error, Damaged):
        return str(error)
    if isinstance(error, ClientError):
        return f"S3 answered {status_of(error)} {code_of(error)}"
    return type(error).__name__


def delay_of(error: Exception) -> float | None:
    """For how many seconds the store wants to be left alone (`retry`); None where the error doesn't pass."""
    if not isinstance(error, (*S3_ERRORS, Damaged)) or not may_pass(error):
        return None
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return wished_pause(metadata.get("HTTPHeaders", {}))


def promised_md5(bucket: str, answer: Mapping[str, Any]) -> str | None:
    """The MD5 of a whole object by its ETag. None where the ETag is none: of an object that was put in parts, that is
    encrypted with a key of the owner's, or that lies in a directory bucket or behind an Object Lambda."""
    etag = _telling_etag(bucket, answer)
    return etag if re.fullmatch(r"[0-9a-f]{32}", etag) else None


def promised_parts(bucket: str, answer: Mapping[str, Any]) -> tuple[str, int] | None:
    """Of an object that was put in parts: the MD5 of their MD5s, and how many there are, where its ETag says so."""
    found = re.fullmatch(r"([0-9a-f]{32})-([0-9]+)", _telling_etag(bucket, answer))
    return (found[1], int(found[2])) if found else None


def _telling_etag(bucket: str, answer: Mapping[str, Any]) -> str:
    """An object's ETag, without quotes; empty where it says nothing of the bytes."""
    other_key = str(answer.get("ServerSideEncryption", "")).startswith("aws:") or answer.get("SSECustomerAlgorithm")
    if other_key or re.search(r"--(x|xa|ol)-s3$", bucket):
        return ""
    return str(answer.get("ETag", "")).strip('"').lower()


def md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def check_md5(data: bytes | bytearray, promised: str | None) -> None:
    """Raises Damaged where the bytes of an object aren't those that its ETag promised."""
    if promised not in (None, md5(data)):
        raise Damaged("the bytes don't match the object's ETag")


def store_error(problem: str, error: Exception) -> JobError:
    """What ends a run that can't begin for an error of a store: its absence passes, a wrong option doesn't."""
    kind = RunError if is_away(error) else UsageError
    return kind(f"{problem}: {safe_message(str(error))}")
