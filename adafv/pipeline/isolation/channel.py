"""Arrow tables and short messages between a process and its child, through shared memory.

A batch of crops is tens of megabytes. It is written once, into an anonymous memory file whose descriptor goes over a
socket; the other side maps the file and reads the table in place. A message is one byte, its kind, with or without such
a file.

Fresh memory costs several times what copying into it does, so the parent reuses its request files once the child has
answered. Answers travel on as views of their file, so each has its own.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from typing import IO, cast

import pyarrow as pa

MAKE = b"M"  # to the child: what to make, pickled
TABLE = b"T"  # rows to the child, results from it
READY = b"R"  # from the child: made
PROGRESS = b"P"  # from the child: still at work
RAISED = b"E"  # from the child: an exception, as JSON


class Channel:
    """One end. `receive` raises EOFError if the other end is gone, TimeoutError if it is silent."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, kind: bytes) -> None:
        self._socket.sendall(kind)

    def send_bytes(self, kind: bytes, data: bytes) -> None:
        with anonymous_file() as file:
            file.write(data)
            self.send_file(kind, file)

    def send_table(self, table: pa.Table) -> None:
        with anonymous_file() as file:
            write_table(table, file)
            self.send_file(TABLE, file)

    def send_file(self, kind: bytes, file: IO[bytes]) -> None:
        self._socket.settimeout(None)
        socket.send_fds(self._socket, [kind], [file.fileno()])

    def receive(self, timeout: float | None = None) -> tuple[bytes, pa.Buffer]:
        """(kind, contents) of the next message, waiting at most `timeout` seconds. Contents are not copied."""
        self._socket.settimeout(timeout)
        kind, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not kind:
            raise EOFError("the other process is gone")
        return kind, _contents(descriptors[0]) if descriptors else pa.py_buffer(b"")


def write_table(table: pa.Table, file: IO[bytes]) -> None:
    """Write `table` to the start of `file`. Leftovers behind it do no harm: an Arrow stream marks its end."""
    file.seek(0)
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def table_in(contents: pa.Buffer) -> pa.Table:
    """The table in a message's contents, as a view."""
    return pa.ipc.open_stream(contents).read_all()


def anonymous_file() -> IO[bytes]:
    """A file in memory, if the system has them."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("adafv"), "wb", buffering=0)
    return cast(IO[bytes], tempfile.TemporaryFile(buffering=0))


def _contents(descriptor: int) -> pa.Buffer:
    try:
        return pa.py_buffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
