"""`--on-finish`: a command or URL that gets the run's record when the run has ended.

No shell is involved: a command is split into words, and reads the JSON from standard input or from the file named by
`ADAFV_RUN_FILE`. A URL gets a POST. Both are the operator's own and may lead into a network, unlike a data set's
images. They may hold secrets anywhere, so only a URL's scheme and host, or a command's program, are ever shown.

A hook that fails is a warning and changes neither labels nor exit status.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.retry import is_passing, retry

LOG = logging.getLogger("adafv")
VARIABLE = "ADAFV_RUN_FILE"
ATTEMPTS, TIMEOUT = 3, 10.0  # of a POST; seconds for each
COMMAND_TIMEOUT = 300.0  # seconds

Hook = Callable[[dict[str, Any]], None]  # takes a run's record


class HookError(Exception):
    """Why a hook failed, without secrets."""


def open_hook(given: str) -> Hook:
    """A function that calls the command or URL and never raises for its failures.

    Raises:
        UsageError: it is neither.
    """
    call = _webhook(given) if _is_url(given) else _command(given)
    name = public_hook(given)

    def hook(record: dict[str, Any]) -> None:
        try:
            call(json.dumps(record).encode())
        except HookError as error:
            LOG.warning("--on-finish %s failed: %s", name, error)
        else:
            LOG.info("--on-finish %s was notified", name)

    return hook


def public_hook(given: str) -> str:
    """The hook without secrets: a URL's scheme and host, or a command's program."""
    if not _is_url(given):
        return f"{given.split(maxsplit=1)[0]} …" if len(given.split()) > 1 else given.strip()
    scheme, _, rest = given.partition("://")
    try:
        parts = urlsplit(given)
        host = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        host = ""
    # With an @ further on, the apparent host may be a password with a slash in it.
    return f"{scheme}://…" if not host or "@" in rest.partition("/")[2] else f"{scheme}://{host}/…"


def _is_url(given: str) -> bool:
    return given.lower().startswith(("http://", "https://"))


def _command(given: str) -> Callable[[bytes], None]:
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise UsageError(f"--on-finish {public_hook(given)} can't be split into words: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"--on-finish {public_hook(given)!r}: there is no such program, and it isn't an http(s) URL; for "
            "shell syntax start a shell, as in \"sh -c '...'\""
        )

    def call(data: bytes) -> None:
        try:
            with tempfile.NamedTemporaryFile(prefix="run-", suffix=".json") as file:
                file.write(data)
                file.flush()
                done = subprocess.run(
                    words, input=data, env=os.environ | {VARIABLE: file.name}, timeout=COMMAND_TIMEOUT, check=False
                )
        except subprocess.TimeoutExpired:
            raise HookError(f"it ran for more than {COMMAND_TIMEOUT:g} s and was killed") from None
        except OSError as error:  # the program, or the disk with its file
            raise HookError(f"it can't be started: {error.strerror}") from None
        if done.returncode:
            raise HookError(f"exit status {done.returncode}")

    return call


def _webhook(given: str) -> Callable[[bytes], None]:
    try:
        parts = urlsplit(given)
        usable = bool((parts.hostname or "").encode("idna")) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not given.isascii() or any(character <= " " for character in given):
        raise UsageError(f"--on-finish {public_hook(given)} isn't a valid URL; write characters beyond ASCII as %XX")
    headers = {"Content-Type": "application/json", "User-Agent": "adafv"} | _authorization(parts)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()

    opener = urllib.request.build_opener(_NoRedirect)  # not urllib3, which logs a URL's path

    def post(data: bytes) -> None:
        with opener.open(urllib.request.Request(url, data, headers, method="POST"), timeout=TIMEOUT):
            pass

    def call(data: bytes) -> None:
        failures: list[Exception] = []
        try:
            retry(lambda: post(data), _delay, attempts=ATTEMPTS, on_retry=failures.append)
        except (OSError, http.client.HTTPException) as error:  # their texts may repeat the URL
            raise HookError(_problem(error) + (f", {len(failures) + 1} times" if failures else "")) from None

    return call


def _delay(error: Exception) -> float | None:
    """The `delay` for `retry`: a server's refusal is final."""
    return None if isinstance(error, urllib.error.HTTPError) and not is_passing(error.code) else 0.0


def _problem(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code}"
    reason = getattr(error, "reason", error)
    return type(reason if isinstance(reason, Exception) else error).__name__


def _authorization(parts: SplitResult) -> dict[str, str]:
    """The header for the user and password in a URL."""
    if parts.username is None:
        return {}
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Don't follow redirects: that would lose the body and take secrets elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None
