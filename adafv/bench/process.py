"""A process for one measurement: whose memory, threads and settings are that measurement's and no other's; and what it
holds of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_STATUS = Path("/proc/self/status")  # see proc(5)


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `function` returns, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments, **named).result()


def by_size(
    sizes: Sequence[int], folder: str | None, write: Callable[[Path, int], None], measure: Callable[[Path, int], T]
) -> list[T]:
    """What `measure` says of what `write` has written, by size, each in a new process. The data is written under
    `folder` and removed again.
    """
    found = []
    for size in sizes:
        with TemporaryDirectory(dir=folder) as data:
            apart(write, Path(data), size)
            found.append(apart(measure, Path(data), size))
    return found


def resident(name: str) -> int:
    """Bytes of this process's resident set: now (`VmRSS`), at most (`VmHWM`), or what is nobody else's (`RssAnon`)."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024  # from kB
