"""One process of the job, from its start to its end, and how far it is."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services import send

REPOSITORY = Path(__file__).parents[2]
PLANNED = re.compile(r"([\d,]+) rows, ([\d,]+) done before, ([\d,]+) to do")
PROGRESS = re.compile(r"([\d,]+)/[\d,]+ rows \(")
REJECTED = re.compile(r"^  rejected +([\d,]+)$", re.MULTILINE)


class Job:
    """The command, running with `arguments`; all that it says goes to the file `log`.

    Attributes:
        disturbed: whether something was struck or away while it ran; it isn't to blame for failing then.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log, self.started, self.disturbed = log, time.monotonic(), False
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.campaign.command", *arguments],
                cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def rows(self) -> int | None:
        """How many rows this process has had back; None before it has planned."""
        said = self.said
        if not PLANNED.search(said):
            return None
        progress = PROGRESS.findall(said)
        return _number(progress[-1]) if progress else 0

    @property
    def share(self) -> float:
        """How much of what this process has to do is done."""
        planned = PLANNED.search(self.said)
        to_do = _number(planned[3]) if planned else 0
        return (self.rows or 0) / to_do if to_do else 0.0

    @property
    def place(self) -> str:
        """How far the output is, for the log."""
        planned = PLANNED.search(self.said)
        if not planned:
            return f"starting, {time.monotonic() - self.started:.0f} s"
        return f"{_number(planned[2]) + (self.rows or 0):,}/{planned[1]} rows"

    @property
    def rejected(self) -> int:
        """How many rows it rejected; known at its end."""
        found = REJECTED.search(self.said)
        return _number(found[1]) if found else 0

    def tail(self, lines: int = 15) -> str:
        """The last of what it said, without lines that only say that it is alive."""
        kept = [line for line in self.said.splitlines() if not PROGRESS.search(line)]
        return "\n".join(kept[-lines:])

    def kill(self) -> None:
        send(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=300)


def _number(text: str) -> int:
    return int(text.replace(",", ""))
