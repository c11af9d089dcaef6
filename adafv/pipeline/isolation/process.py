"""The child process as its parent sees it: started on demand, asked, watched, and restarted."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

import pyarrow as pa

from adafv.pipeline.isolation.channel import (
    MAKE,
    PROGRESS,
    READY,
    TABLE,
    Channel,
    anonymous_file,
    table_in,
    write_table,
)
from adafv.pipeline.redaction import safe_message

START_ATTEMPTS = 3
START_SECONDS = 3600.0  # to load a model, perhaps after a download
ENDING_SECONDS = 5.0  # for a process to exit after closing its socket


class Handler(Protocol):
    """Does the work, in the child process."""

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        """Turn a table into another, calling `on_progress` now and then. May raise. The given table's memory is reused
        after it returns."""

    def is_spent(self, error: BaseException) -> bool:
        """Whether `error` leaves the process unusable, so that it has to end."""
        return False


class Died(Exception):  # noqa: N818  (an outcome)
    """The child ended, or was killed for making no progress, while it had a table."""


class Raised(Exception):  # noqa: N818  (an outcome)
    """The handler raised an exception of class `type`. The child lives on."""

    def __init__(self, type: str, text: str) -> None:
        super().__init__(f"{type}: {text}")
        self.type = type


class StartError(RuntimeError):
    """The child could not be started, so no row is to blame."""


class RefusedError(StartError):
    """The handler couldn't be made of what it was given (a ValueError): no other try will."""


class Isolated:
    """A handler in a process of its own.

    Several threads may ask. One table is worked on at a time, while the other threads write their tables and read their
    answers.

    Args:
        make: makes the handler in the child; picklable.
        timeout: seconds without progress after which the child is killed.
        memory: bytes that the child may allocate once the handler is made; None for no limit.
    """

    def __init__(self, make: Callable[[], Handler], timeout: float, memory: int | None = None) -> None:
        self._make, self._timeout, self._memory = make, timeout, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._lock = threading.Lock()  # held while a table is worked on
        self._spare: list[IO[bytes]] = []  # request files to reuse

    @property
    def pid(self) -> int | None:
        """The child's process id; None if there is no child at present."""
        return None if self._process is None else self._process.pid

    def ask(self, table: pa.Table) -> pa.Table:
        """The handler's answer.

        Raises:
            Died: the child died, or hung and was killed. The next call starts another.
            Raised: the handler raised.
            StartError: no child could be started; a RefusedError if none ever can.
        """
        with self._written(table) as file, self._lock:
            return self._ask(file)

    @contextmanager
    def _written(self, table: pa.Table) -> Iterator[IO[bytes]]:
        """`table` in a file, for one request."""
        try:
            file = self._spare.pop()
        except IndexError:
            file = anonymous_file()
        write_table(table, file)
        yield file
        self._spare.append(file)

    def _ask(self, file: IO[bytes]) -> pa.Table:
        channel = self._channel or self._start()
        try:
            channel.send_file(TABLE, file)
            kind, contents = _answer(channel, self._timeout)
        except TimeoutError:
            self._end(kill=True)
            raise Died(f"no progress for {self._timeout:g} s") from None
        except (EOFError, ConnectionError):
            raise Died(self._end()) from None
        if kind == TABLE:
            return table_in(contents)
        error = json.loads(contents.to_pybytes())
        if error["spent"]:
            self._end()
            raise Died(f"{error['type']}: {error['text']}")
        raise Raised(error["type"], error["text"])

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._end(kill=True)

    def _start(self) -> Channel:
        how = ""
        for _ in range(START_ATTEMPTS):
            channel = self._launch()
            try:
                channel.send_bytes(MAKE, pickle.dumps((self._make, self._memory)))
                kind, contents = _answer(channel, START_SECONDS)
            except TimeoutError:
                self._end(kill=True)
                raise StartError(f"not ready after {START_SECONDS:g} s") from None
            except (EOFError, ConnectionError):
                how = self._end()
                continue
            if kind == READY:
                return channel
            self._end()
            error = json.loads(contents.to_pybytes())
            if error["refused"]:
                raise RefusedError(safe_message(error["text"]))
            raise StartError(safe_message(f"{error['type']}: {error['text']}"))
        raise StartError(f"the process died {START_ATTEMPTS} times before it was given any row, at last by {how}")

    def _launch(self) -> Channel:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = start_child(theirs)
        self._channel = Channel(ours)
        self._close_socket = weakref.finalize(self, ours.close)  # ends the child when this is garbage-collected
        return self._channel

    def _end(self, kill: bool = False) -> str:
        """Make sure that the child is gone. Returns how it ended."""
        process, self._process, self._channel = self._process, None, None
        assert process is not None
        if kill:
            process.kill()
        self._close_socket()
        try:
            return _how(process.wait(ENDING_SECONDS))
        except subprocess.TimeoutExpired:  # it closed its socket but lives on
            process.kill()
            return _how(process.wait())


def start_child(end: socket.socket) -> subprocess.Popen[bytes]:
    """A new process that serves at `end` of a channel, with this process's import path."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "adafv.pipeline.isolation.child", str(end.fileno())],
        pass_fds=[end.fileno()],
        env={**os.environ, "PYTHONPATH": path},
    )


def _answer(channel: Channel, timeout: float) -> tuple[bytes, pa.Buffer]:
    """The next message other than progress; each progress message restarts the time-out."""
    while True:
        kind, contents = channel.receive(timeout)
        if kind != PROGRESS:
            return kind, contents


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status} ({signal.Signals(-status).name})"
