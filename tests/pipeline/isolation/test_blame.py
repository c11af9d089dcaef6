"""The row that kills is found, the others come through, and accidents are forgiven."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from adafv.pipeline.isolation import Failure, Isolated, StartError, run_isolated
from tests.pipeline.isolation.handlers import Obedient, Unmade
from tests.pipeline.isolation.test_process import doubles, rows


@pytest.fixture
def notes(tmp_path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def process(notes):
    process = Isolated(partial(Obedient, str(notes)), timeout=5.0)
    yield process
    process.close()


def asked(notes: Path) -> list[list[int]]:
    """The numbers of the rows in each request that reached a child."""
    return [[int(word) for word in line.split()[1:]] for line in notes.read_text().splitlines()]


def test_sound_rows_are_asked_once(process, notes):
    answers, failures = run_isolated(process, rows(None, None, None))
    assert [doubles(answer) for answer in answers] == [[0, 2, 4]] and failures == {}
    assert asked(notes) == [[0, 1, 2]]


def test_the_killers_are_found_and_the_rest_comes_through(process, notes):
    answers, failures = run_isolated(process, rows(None, "die", None, "hang", "raise", None))
    assert [doubles(answer) for answer in answers] == [[0], [4], [10]]
    assert failures == {
        1: Failure(None, "signal 11 (SIGSEGV)"),
        3: Failure(None, "no progress for 5 s"),
        4: Failure("ValueError", "ValueError: as asked"),
    }
    assert asked(notes) == [[0, 1, 2, 3, 4, 5], [0], [1], [1], [2], [3], [3], [4], [5]]


def test_a_death_by_accident_costs_no_row(process, notes, tmp_path):
    answers, failures = run_isolated(process, rows(None, f"once {tmp_path / 'marker'}", None))
    assert [doubles(answer) for answer in answers] == [[0], [2], [4]] and failures == {}


def test_a_row_that_raises_alone_is_not_asked_again(process, notes):
    assert run_isolated(process, rows("raise")) == ([], {0: Failure("ValueError", "ValueError: as asked")})
    assert asked(notes) == [[0]]


def test_a_lone_row_that_kills_is_given_up_at_the_third_death(process, notes):
    assert run_isolated(process, rows("die")) == ([], {0: Failure(None, "signal 11 (SIGSEGV)")})
    assert asked(notes) == [[0], [0], [0]]


def test_no_row_is_blamed_where_no_process_can_be_had():
    with pytest.raises(StartError):
        run_isolated(Isolated(partial(Unmade, "model"), timeout=1.0), rows(None, None))
