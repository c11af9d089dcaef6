"""The child process: what it is given arrives, how it ends is told, and none is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adafv.pipeline.isolation import Isolated, StartError
from adafv.pipeline.isolation.process import Died, Raised
from tests.pipeline.isolation.handlers import Obedient, Unmade


def rows(*deeds: str | None) -> pa.Table:
    return pa.table({"number": list(range(len(deeds))), "deed": pa.array(deeds, pa.string())})


def doubles(table: pa.Table) -> list[int]:
    return table.column("double").to_pylist()


@pytest.fixture(scope="module")
def process():
    process = Isolated(Obedient, timeout=1.0)
    yield process
    process.close()


def gone(pid: int) -> bool:
    """Whether a process has ended, or is about to be reaped."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_rows_are_answered_by_one_process(process):
    first = process.ask(rows(None, None, None))
    assert doubles(first) == [0, 2, 4]
    assert process.pid != os.getpid() and set(first.column("pid").to_pylist()) == {process.pid}
    assert process.ask(rows(None)).column("pid").to_pylist() == [process.pid]


def test_large_tables_arrive_whole_and_outlive_the_next_answer(process):
    """100 MB there; what comes back is a view, which the answers that follow must not change."""
    data = np.random.default_rng(0).bytes(25_000_000)
    table = rows(None, None, None, None).append_column("crops", pa.array([data] * 4, pa.large_binary()))
    first = process.ask(table)
    process.ask(rows(None, None))
    assert doubles(first) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("die", r"signal 11 \(SIGSEGV\)"),
        ("exit", "exit status 3"),
        ("hang", "no progress for 1 s"),
        ("spend", "RuntimeError: the context is spent"),
    ],
)
def test_a_death_says_how_and_another_process_takes_over(process, deed, how):
    process.ask(rows(None))
    before = process.pid
    with pytest.raises(Died, match=how):
        process.ask(rows(None, deed))
    assert gone(before)
    assert doubles(process.ask(rows(None, None))) == [0, 2] and process.pid != before


def test_what_raises_leaves_the_process_alive(process):
    process.ask(rows(None))
    before = process.pid
    with pytest.raises(Raised, match="ValueError: as asked"):
        process.ask(rows("raise"))
    assert doubles(process.ask(rows(None))) == [0] and process.pid == before


def test_progress_extends_the_time(process):
    """Two seconds of work, with a time-out of one, and word of progress every quarter."""
    assert doubles(process.ask(rows("toil"))) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_beyond_the_limit_is_refused():
    process = Isolated(Obedient, timeout=60, memory=256 * 2**20)
    with pytest.raises(Raised, match="MemoryError"):
        process.ask(rows("eat"))
    assert doubles(process.ask(rows(None))) == [0]
    process.close()


def test_what_can_not_be_made_blames_no_row():
    with pytest.raises(StartError, match="OSError: no such model"):
        Isolated(partial(Unmade, "model"), timeout=60).ask(rows(None))
    with pytest.raises(StartError, match=r"died 3 times before it was given any row, at last by signal 9"):
        Isolated(partial(Unmade, "die"), timeout=60).ask(rows(None))


def test_no_process_outlives_its_parents_interest():
    process = Isolated(Obedient, timeout=60)
    process.ask(rows(None))
    closed = process.pid
    process.close()
    process.ask(rows(None))
    forgotten = process.pid
    del process
    gc.collect()
    assert gone(closed) and gone(forgotten)


def test_no_process_outlives_its_parent():
    """The parent is killed while the child hangs."""
    code = """if True:
        import pyarrow as pa, threading
        from adafv.pipeline.isolation import Isolated
        from tests.pipeline.isolation.handlers import Obedient
        process = Isolated(Obedient, timeout=600)
        process.ask(pa.table({'number': [1], 'deed': pa.array([None], pa.string())}))
        print(process.pid, flush=True)
        process.ask(pa.table({'number': [1], 'deed': ['hang']}))
        """
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    assert gone(child)
