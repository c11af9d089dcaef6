"""The child process: make the handler, then answer tables until the parent is gone.

python -m adafv.pipeline.isolation.child DESCRIPTOR
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
import time

from adafv.pipeline.isolation.channel import MAKE, PROGRESS, RAISED, READY, TABLE, Channel, table_in

SPENT = 70  # exit status after an error that leaves the process unusable
HEARTBEAT_SECONDS = 0.2
TEXT_LIMIT = 4000  # characters of an exception's text that are passed on


def main(descriptor: int) -> None:
    faulthandler.enable()  # a crash in C code leaves the Python line in the worker's log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent acts on it
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        _serve(channel)
    except (EOFError, ConnectionError):  # the parent is gone
        os._exit(0)


class Heartbeat:
    """Reports progress to the parent, but not every time: each message wakes it up."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._last = channel, time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= HEARTBEAT_SECONDS:
            self._last = now
            self._channel.send(PROGRESS)


def _serve(channel: Channel) -> None:
    kind, contents = channel.receive()
    assert kind == MAKE
    try:
        make, memory = pickle.loads(contents)
        handler = make()
    except Exception as error:  # any error is reported to the parent
        _report(channel, error, spent=True)
        os._exit(SPENT)
    if memory is not None:
        _limit_memory(memory)
    channel.send(READY)
    while True:
        kind, contents = channel.receive()
        assert kind == TABLE
        try:
            channel.send_table(handler(table_in(contents), Heartbeat(channel)))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:  # any error
            _report(channel, error, spent := handler.is_spent(error))
            if spent:
                os._exit(SPENT)  # no clean-up: it would need what is broken


def _report(channel: Channel, error: Exception, spent: bool) -> None:
    found = {"type": type(error).__name__, "text": str(error)[:TEXT_LIMIT], "spent": spent}
    found["refused"] = type(error) is ValueError  # its kinds, such as a JSONDecodeError, may be a passing fault
    channel.send_bytes(RAISED, json.dumps(found).encode())


def _limit_memory(more: int) -> None:
    """Let this process allocate `more` bytes; allocations beyond that fail."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            [used] = [1024 * int(line.split()[1]) for line in status if line.startswith("VmData:")]
    except FileNotFoundError:  # not Linux: no such limit either
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _end_with_parent(descriptor: int) -> None:
    """Exit at once when the parent closes its end of the socket."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
