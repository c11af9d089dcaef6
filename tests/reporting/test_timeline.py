"""Counts over time lose nothing, take bounded memory and leave long gaps out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adafv.reporting import timeline
from adafv.reporting.timeline import GAP, Timeline

DAY = 86_400


def made(*batches: list[int]) -> Timeline:
    found = Timeline()
    for batch in batches:
        found.add(np.array(batch, dtype=np.int64))
    return found


@given(st.lists(st.lists(st.integers(0, 30 * DAY), max_size=40), max_size=5), st.integers(1, 80))
def test_every_label_is_in_one_column_at_its_time(batches, columns):
    step, spans = made(*batches).spans(columns)
    found = [start + place * step for start, counts in spans for place, n in enumerate(counts) for _ in range(n)]
    times = sorted(time for batch in batches for time in batch)
    assert len(found) == len(times)
    assert all(column <= time < column + step for column, time in zip(found, times, strict=True))


def test_steps_grow_so_that_they_are_few(monkeypatch):
    monkeypatch.setattr(timeline, "MOST", 100)
    found = made(*([n] for n in range(0, 3000, 3)))
    assert found.width == 32 and len(found._steps) <= 100
    step, [(start, counts)] = found.spans(1000)
    assert (step, start, sum(counts)) == (60, 0, 1000)


def test_a_long_gap_is_left_out_and_a_short_one_is_drawn():
    _, spans = made([100, 160, 100 + GAP], [100 + 2 * DAY]).spans(60)
    assert [sum(counts) for _, counts in spans] == [3, 1]
    assert 0 in spans[0][1], "nothing was labelled for some minutes"


def test_the_columns_are_about_as_many_as_asked_for():
    for seconds in (1, 10, 59, 61, 1000, 5 * DAY, 900 * DAY):
        step, spans = made(list(range(0, seconds, max(1, seconds // 500)))).spans(60)
        assert sum(len(counts) for _, counts in spans) <= 61 and step >= seconds / 62


def test_a_job_of_every_night_is_one_span():
    _, spans = made([night * DAY for night in range(100)]).spans(60)
    assert [sum(counts) for _, counts in spans] == [100]


def test_nothing():
    assert made().spans(60) == (1, [])
