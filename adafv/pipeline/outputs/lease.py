"""One job at a time on one output: a lease that expires when its holder is dead.

The lease is a file `lease/<generation>`. Taking it means creating the next generation, which a store does for one of
any number of contenders (O_EXCL on a disk, `If-None-Match: *` on S3); the highest generation holds. The holder writes
its file again every few seconds. A contender that finds the newest file younger than `ttl` is refused; one that finds
it older, or marked as released, may create the next. So two contenders for a dead job's lease can't both win, and
nothing needs a conditional overwrite, which many S3-compatible stores don't have.

Some stores keep even `If-None-Match` only nearly: of requests that cross, Swift lets two through, or lets one through
and tells everyone no. So what counts is whose file it is a moment later, and at every renewal.

Ages are told by the store's clock alone, so hosts may disagree about the time. The holder doesn't trust clocks either:
once its last renewal began `HELD` of `ttl` ago, by its own clock, which also counts while the machine is suspended, it
starts no write any more. The rest of `ttl` is for the write that it may have started just before: of 120 s, 60 s for
one attempt at a put, which has 10 s to connect, 30 s to wait for the answer, and so 20 s to send some megabytes. A
process that is stopped in mid-request for longer than that can't be told from a dead one; no lease helps there.

On one host a contender needn't wait for `ttl`: a holder whose process is gone is dead. What it had handed to the
network may still arrive, so a lease that was not released is taken over `landing` seconds before the output is read.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid

from adafv.pipeline.errors import RunError
from adafv.pipeline.store.output import Output
from adafv.pipeline.store.s3 import S3_ERRORS, describe

LOG = logging.getLogger("adafv")
TTL = 120.0  # seconds until a lease that nobody renews may be taken over
HELD = 0.5  # the part of that for which its holder may start to write
FOLDER = "lease"


class Lease:
    """Holds the lease of an output for the length of a `with` block, renewing it in the background.

    Args:
        run_id: shown to whoever is refused.
        ttl: seconds; every contender for an output must use the same.

    Raises:
        RunError: on entering, if another job holds it.
    """

    def __init__(self, output: Output, run_id: str, ttl: float = TTL) -> None:
        self._output, self._run_id, self._ttl = output, run_id, ttl
        self._name, self._token = "", uuid.uuid4().hex
        self._renewed = float("-inf")
        self._problem = ""  # why it was not renewed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._take()
        self._output.guard = self.check
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            if self._held():
                self._write(released=True)
        except (*S3_ERRORS, OSError, RunError) as problem:  # it expires by itself; the run's own outcome matters more
            LOG.warning("the lease on %s could not be released: %s", self._output.uri, describe(problem))
        self._renewed, self._problem = float("-inf"), "the run has ended"

    def check(self) -> None:
        """Return if the lease is held for certain.

        Raises:
            RunError: it could not be renewed for so long that another job may have taken it.
        """
        if not self._held():
            raise RunError(f"the lease on {self._output.uri} was lost: {self._problem or 'it was not renewed in time'}")

    def _held(self) -> bool:
        return _now() - self._renewed < HELD * self._ttl

    def _take(self) -> None:
        newest = self._newest()
        left = None if newest is None else self._output.read(newest)
        if newest is not None and left is not None:
            holder = self._holder(newest, left)
            if holder is not None:
                raise RunError(
                    f"{self._output.uri} is being written by run {holder['run_id']} on {holder['host']} "
                    f"(process {holder['pid']}); wait for it to end, or for {self._ttl:.0f} s after it was killed"
                )
        generation = 1 if newest is None else int(newest.rpartition("/")[2]) + 1
        self._name = f"{FOLDER}/{generation:08d}"
        started = _now()
        self._output.create(self._name, self._content())
        time.sleep(self._output.settling)
        if not self._is_mine():
            raise RunError(f"another job took the lease on {self._output.uri} at this moment")
        if left is not None and not _released(left):
            time.sleep(self._output.landing)
        self._renewed = started
        for name in self._output.names(FOLDER):
            if name < self._name:
                self._output.delete(name)

    def _is_mine(self) -> bool:
        """Whether the newest file is this lease's own."""
        data = self._output.read(self._name) if self._newest() == self._name else None
        return data is not None and data != b"" and json.loads(data)["token"] == self._token

    def _newest(self) -> str | None:
        return max(self._output.names(FOLDER), default=None)

    def _holder(self, name: str, data: bytes) -> dict[str, str] | None:
        """Who holds the lease in the file `name`; None if it is free, expired, or its process is gone."""
        age = self._output.age(name)
        if age is None or age > self._ttl or _released(data):
            return None
        if not data:
            return {"run_id": "(starting)", "host": "an unknown host", "pid": "unknown"}
        holder: dict[str, str] = json.loads(data)
        gone = holder["host"] == socket.gethostname() and not _alive(int(holder["pid"]), holder["born"])
        return None if gone else holder

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 12):
            if not self._held():
                return  # too late: someone else may hold it by now, and writing would bring ours back to life
            try:
                if not self._is_mine():
                    self._renewed, self._problem = float("-inf"), "another job took it"
                    return
                self._write(released=False)
            except (*S3_ERRORS, OSError, RunError) as error:
                self._problem = f"it could not be renewed: {describe(error)}"
                LOG.warning("the lease on %s could not be renewed: %s", self._output.uri, describe(error))

    def _write(self, released: bool) -> None:
        """One attempt: the next renewal is the next."""
        started = _now()
        self._output.put(self._name, self._content(released), patience=0)
        self._renewed, self._problem = started, ""

    def _content(self, released: bool = False) -> bytes:
        pid = os.getpid()
        holder = {
            "token": self._token,
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "pid": pid,
            "born": _born(pid),
        }
        return json.dumps(holder | {"released": released}).encode()


def _now() -> float:
    """Seconds on a clock that also counts while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _released(data: bytes) -> bool:
    return bool(data) and json.loads(data)["released"]


def _alive(pid: int, born: str | None) -> bool:
    """Whether that process runs on this host: a process of this number that was born at the same moment."""
    return born is None or _born(pid) == born


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's own count since boot, with the boot it belongs to; None if not known.

    A process number comes round again, and containers each have a process 1: the boot and the process namespace tell
    them apart.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot}/{os.readlink(f'/proc/{pid}/ns/pid')}/{ticks}"
    except (OSError, IndexError):
        return None
