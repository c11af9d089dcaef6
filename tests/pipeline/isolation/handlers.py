"""Handlers that do as their rows say, for the child process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pyarrow as pa


class Obedient:
    """Doubles numbers, unless a row's `deed` is something else. It notes what it is asked in a file."""

    def __init__(self, notes: str = "") -> None:
        self._notes = notes

    def __call__(self, table: pa.Table, on_progress) -> pa.Table:
        numbers, deeds = table.column("number").to_pylist(), table.column("deed").to_pylist()
        if self._notes:
            with Path(self._notes).open("a") as file:
                print(os.getpid(), *numbers, file=file)
        for deed in deeds:
            self._do(deed, on_progress)
        return pa.table({"double": [2 * number for number in numbers], "pid": [os.getpid()] * len(numbers)})

    def is_spent(self, error: BaseException) -> bool:
        return "spent" in str(error)

    def _do(self, deed: str | None, on_progress) -> None:
        if deed == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif deed == "exit":
            os._exit(3)
        elif deed == "raise":
            raise ValueError("as asked")
        elif deed == "spend":
            raise RuntimeError("the context is spent")
        elif deed == "hang":
            while True:
                time.sleep(1)
        elif deed == "toil":
            for _ in range(8):
                time.sleep(0.5)
                on_progress()
        elif deed and deed.startswith("until "):
            while not Path(deed.removeprefix("until ")).exists():
                time.sleep(0.01)
                on_progress()
        elif deed == "eat":
            bytearray(2**30)
        elif deed and deed.startswith("once "):
            marker = Path(deed.removeprefix("once "))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class Unmade:
    """Can't be made."""

    def __init__(self, how: str) -> None:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise (ValueError if how == "unsupported" else OSError)(f"no such {how}")
