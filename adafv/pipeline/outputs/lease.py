"""One job at a time on one output: a lease that expires when its holder is dead.

The lease is a file `lease/<generation>`. A job takes it by creating the next generation, which only one contender can
(O_EXCL on a disk, `If-None-Match: *` on S3); the highest generation holds. The holder rewrites its file every few
seconds. A contender that finds the newest file younger than `ttl` is refused; if it is older, or released, it may
create the next. So two contenders can't both take over a dead job's lease, and no conditional overwrite is needed,
which many S3-compatible stores lack.

Some stores don't honour `If-None-Match` strictly: with concurrent requests, Swift may accept both, or accept one and
report failure to both. So what counts is whose file is there a moment later, and at every renewal.

Ages are measured by the store's clock alone. The holder trusts its own clock, which also counts while the machine is
suspended, for one thing: once its last renewal began `HELD` of `ttl` ago, it starts no write. The rest of `ttl` is for
a write that it may have started just before: 60 of 120 s for one put, with 10 s to connect, 30 s to wait for the answer
and 20 s to send. A process suspended in mid-request for longer can't be told from a dead one.

Where this process could see the holder's and doesn't, it is dead, and `ttl` need not pass. A host's name doesn't tell:
two machines can have one name, and a container that of its machine. What a dead holder had sent may still arrive, so an
unreleased lease is taken over `landing` seconds before the output is read.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from adafv.pipeline.errors import RunError
from adafv.pipeline.store.output import Output
from adafv.pipeline.store.s3 import S3_ERRORS, describe

LOG = logging.getLogger("adafv")
TTL = 120.0  # seconds after which an unrenewed lease may be taken over
HELD = 0.5  # the part of that in which its holder may start a write
FOLDER = "lease"


class Lease:
    """Holds an output's lease for a `with` block and renews it in the background.

    Args:
        run_id: shown to refused jobs.
        ttl: seconds; the same for every job on an output.

    Raises:
        RunError: on entering, if another job holds the lease.
    """

    def __init__(self, output: Output, run_id: str, ttl: float = TTL) -> None:
        self._output, self._run_id, self._ttl = output, run_id, ttl
        self._name, self._token = "", uuid.uuid4().hex
        self._renewed = float("-inf")
        self._problem = ""  # why the last renewal failed
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
        except (*S3_ERRORS, OSError, RunError) as problem:  # it expires by itself
            LOG.warning("the lease on %s could not be released: %s", self._output.uri, describe(problem))
        self._renewed, self._problem = float("-inf"), "the run has ended"

    def check(self) -> None:
        """Return if the lease is certainly held.

        Raises:
            RunError: it wasn't renewed for so long that another job may have it.
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
        """Whether the newest lease file is this job's."""
        data = self._output.read(self._name) if self._newest() == self._name else None
        return data is not None and _holder_in(data).get("token") == self._token

    def _newest(self) -> str | None:
        """The newest lease file. Others are none of ours, such as the marks that tools leave for folders on S3."""
        names = self._output.names(FOLDER)
        return max((name for name in names if name.rpartition("/")[2].isdecimal()), default=None)

    def _holder(self, name: str, data: bytes) -> dict[str, str] | None:
        """The holder of the lease file `name`; None if it is free, expired, or its process is gone."""
        age = self._output.age(name)
        if age is None or age > self._ttl or _released(data):
            return None
        holder = _holder_in(data)
        if not holder:
            return {"run_id": "(starting)", "host": "an unknown host", "pid": "unknown"}
        return None if _gone(int(holder["pid"]), holder["born"]) else holder

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 12):
            if not self._held():
                return  # too late: another job may hold it by now
            try:
                if not self._is_mine():
                    self._renewed, self._problem = float("-inf"), "another job took it"
                    return
                self._write(released=False)
            except (*S3_ERRORS, OSError, RunError) as error:
                self._problem = f"it could not be renewed: {describe(error)}"
                LOG.warning("the lease on %s could not be renewed: %s", self._output.uri, describe(error))

    def _write(self, released: bool) -> None:
        """A single attempt: the next renewal is the retry."""
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
    """Seconds on a clock that also counts while the machine is suspended, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _holder_in(data: bytes) -> dict[str, Any]:
    """What a lease file says; nothing while it is being created, or if the machine failed then."""
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _released(data: bytes) -> bool:
    return bool(_holder_in(data).get("released"))


def _gone(pid: int, born: str | None) -> bool:
    """Whether the process that was `born` there is certainly dead. False where it can't be seen from here: on another
    machine, in another container, after a restart of the machine."""
    here = _born(os.getpid())
    if born is None or here is None or born.rpartition("/")[0] != here.rpartition("/")[0]:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _born(pid) not in (born, None)


def _born(pid: int) -> str | None:
    """When a process of this container started, as boot id, process namespace and kernel ticks; None if unknown.
    Process numbers repeat, and each container has a process 1."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{ticks}"
    except (OSError, IndexError):
        return None
