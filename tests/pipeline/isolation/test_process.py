"""The child process: what it is given arrives, how it ends is told, and none is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adafv.pipeline.isolation import Isolated, RefusedError, StartError
from adafv.pipeline.isolation import process as module
from adafv.pipeline.isolation.channel import write_table
from adafv.pipeline.isolation.process import Died, Raised
from tests.forking import Forked
from tests.pipeline.isolation.handlers import Obedient, Unmade

LONG, SHORT = 300.0, 3.0  # seconds without progress: of processes that needn't hang, and of those that do


def rows(*deeds: str | None) -> pa.Table:
    return pa.table({"number": list(range(len(deeds))), "deed": pa.array(deeds, pa.string())})


def doubles(table: pa.Table) -> list[int]:
    return table.column("double").to_pylist()


@pytest.fixture(scope="module", params=["started", "forked"])
def starting(request):
    """Both ways to come by a child: that of use, and that of tests whose jobs have many (tests/forking.py)."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "forked":
            request.getfixturevalue("forks")
            patched.setattr(module, "start_child", Forked)
        yield


@pytest.fixture(scope="module")
def process(starting):
    process = Isolated(Obedient, timeout=LONG)
    yield process
    process.close()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold in that time."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def gone(pid: int) -> bool:
    """Whether a process has ended, or is about to be reaped."""

    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    return within(LONG, ended)


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


def test_threads_get_their_own_answers_from_one_process(process):
    """Tables of several sizes, so that a request written over another's would show."""
    tables = [pa.table({"number": [n] * (1 + n % 7), "deed": pa.nulls(1 + n % 7, pa.string())}) for n in range(200)]
    with ThreadPoolExecutor(4) as threads:
        answers = [*threads.map(process.ask, tables)]
    assert [doubles(answer) for answer in answers] == [[2 * n] * (1 + n % 7) for n in range(200)]
    assert {pid for answer in answers for pid in answer.column("pid").to_pylist()} == {process.pid}


def test_the_next_table_is_written_while_one_is_worked_on(process, monkeypatch, tmp_path):
    """Else the model would wait for it."""
    written = []
    monkeypatch.setattr(module, "write_table", lambda *given: (write_table(*given), written.append(given)))
    process.ask(rows(None))
    with ThreadPoolExecutor(2) as threads:
        toiling = threads.submit(process.ask, rows(f"until {tmp_path / 'marker'}"))
        assert within(LONG, process._lock.locked)
        waiting = threads.submit(process.ask, rows(None, None))
        assert within(LONG, lambda: len(written) == 3)
        assert not toiling.done() and not waiting.done()
        (tmp_path / "marker").touch()
        assert doubles(toiling.result()) == [0] and doubles(waiting.result()) == [0, 2]


def test_a_death_costs_only_the_table_in_hand(process):
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(process.ask, rows(deed)) for deed in (None, "die", None, "exit", None)]
    assert [type(each.exception()) for each in asked] == [type(None), Died, type(None), Died, type(None)]


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("die", r"signal 11 \(SIGSEGV\)"),
        ("exit", "exit status 3"),
        ("hang", "no progress for 3 s"),
        ("spend", "RuntimeError: the context is spent"),
    ],
)
def test_a_death_says_how_and_another_process_takes_over(process, deed, how, monkeypatch):
    process.ask(rows(None))
    before = process.pid
    with monkeypatch.context() as patched, pytest.raises(Died, match=how):
        patched.setattr(process, "_timeout", SHORT if deed == "hang" else LONG)
        process.ask(rows(None, deed))
    assert gone(before)
    assert doubles(process.ask(rows(None, None))) == [0, 2] and process.pid != before


def test_what_raises_leaves_the_process_alive(process):
    process.ask(rows(None))
    before = process.pid
    with pytest.raises(Raised, match="ValueError: as asked"):
        process.ask(rows("raise"))
    assert doubles(process.ask(rows(None))) == [0] and process.pid == before


def test_progress_extends_the_time(process, monkeypatch):
    """Four seconds of work, with a time-out of three, and word of progress every half."""
    monkeypatch.setattr(process, "_timeout", SHORT)
    assert doubles(process.ask(rows("toil"))) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_beyond_the_limit_is_refused(starting):
    process = Isolated(Obedient, timeout=60, memory=256 * 2**20)
    with pytest.raises(Raised, match="MemoryError"):
        process.ask(rows("eat"))
    assert doubles(process.ask(rows(None))) == [0]
    process.close()


def test_what_can_not_be_made_blames_no_row(starting):
    with pytest.raises(StartError, match="OSError: no such model"):
        Isolated(partial(Unmade, "model"), timeout=60).ask(rows(None))
    with pytest.raises(StartError, match=r"died 3 times before it was given any row, at last by signal 9"):
        Isolated(partial(Unmade, "die"), timeout=60).ask(rows(None))
    with pytest.raises(RefusedError, match=r"^no such unsupported"):
        Isolated(partial(Unmade, "unsupported"), timeout=60).ask(rows(None))


def test_no_process_outlives_its_parents_interest(starting):
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
