"""Child processes of jobs in tests, forked from one that has imported torch and transformers already.

Each job has several children, and each would import these anew: three or four seconds of a core, most of what a small
job takes. So a server imports them once and forks a child whenever an `Isolated` wants one. All that follows is as in
use: the child has its socket, its limits and its death to itself, and what it dies of is told alike
(tests/pipeline/isolation). Only its parent is another, of which it learns nothing; its name says whose child it is to
be, which `tests.services.parents` reads.

python -m tests.forking SOCKET    until its standard input is closed
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

SERVER = "ADAFV_TESTS_FORK_SERVER"  # the environment variable with its socket
HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"  # Ray's, private: if it goes, tests only take longer
REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 300.0
MARK = "child "  # begins the name that a child's process has
MOST_BYTES = 2**20  # of a request
PARTS = ("adafv.engine.engine", "adafv.pipeline.workers.prepare", "adafv.pipeline.workers.label")


@contextlib.contextmanager
def fork_server(folder: Path) -> Iterator[Path]:
    """A server as a context; its socket, which is there once all is imported."""
    path = folder / "forks"
    command = [sys.executable, "-m", "tests.forking", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        end = time.monotonic() + START_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise RuntimeError(f"the server of children didn't start: exit status {process.poll()}")
            time.sleep(0.05)
        yield path
        assert process.stdin is not None
        process.stdin.close()


def use_server() -> None:
    """Have this process, and whatever it calls itself, start its children by the server that the environment names."""
    from adafv.pipeline.isolation import process

    process.start_child = Forked  # type: ignore[assignment, misc]


def forking_jobs() -> dict[str, str]:
    """The environment of a job that has its own Ray, but children of this process's server (the fixture `forks`)."""
    return {HOOK: f"{__name__}.{use_server.__name__}", "PYTHONPATH": str(REPOSITORY)}


class Forked:
    """A child of the server, as far as `Isolated` uses a `subprocess.Popen`."""

    def __init__(self, end: socket.socket) -> None:
        path = [entry or os.getcwd() for entry in sys.path]
        request = pickle.dumps((dict(os.environ), path, os.getcwd(), os.getpid()))
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.connect(os.environ[SERVER])
        socket.send_fds(self._server, [request], [end.fileno(), 1, 2])
        self.pid = int(self._server.recv(32))
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            self._server.settimeout(timeout)
            try:
                self._status = int(self._server.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired("child", timeout or 0.0) from None
            self._server.close()
        return self._status

    def kill(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


class Server:
    """Forks for whoever connects at `path`, and tells them how their child ended."""

    def __init__(self, path: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by file descriptor: number, and whose it is
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(64)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._fork()
                else:
                    self._tell(key.fd)

    def _fork(self) -> None:
        asker, _ = self._listener.accept()
        request, descriptors, _, _ = socket.recv_fds(asker, MOST_BYTES, 3)
        pid = os.fork()
        if not pid:
            self._selector.close()
            self._listener.close()
            asker.close()
            for _, other in self._children.values():
                other.close()
            _become_child(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        asker.send(str(pid).encode())
        watched = os.pidfd_open(pid)
        self._children[watched] = pid, asker
        self._selector.register(watched, selectors.EVENT_READ)

    def _tell(self, watched: int) -> None:
        pid, asker = self._children.pop(watched)
        self._selector.unregister(watched)
        os.close(watched)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ConnectionError):  # the asker is gone
            asker.send(str(os.waitstatus_to_exitcode(status)).encode())
        asker.close()


def _become_child(request: bytes, descriptors: list[int]) -> None:
    """What `python -m adafv.pipeline.isolation.child` would be, started by the asker."""
    try:
        end, out, err = descriptors
        environment, path, folder, asker = pickle.loads(request)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        os.getppid = lambda: asker  # whose child it is to be
        Path("/proc/self/comm").write_text(f"{MARK}{asker}")
        from adafv.pipeline.isolation.child import main

        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(end)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main(path: str) -> None:
    for name in PARTS:
        __import__(name)
    from adafv.engine import Engine, Preparer  # noqa: F401  (imported when they are asked for)

    assert threading.active_count() == 1, "a fork has one thread alone"
    gc.freeze()  # or a collection in a child would copy every page
    Server(path).serve()


if __name__ == "__main__":
    main(sys.argv[1])
