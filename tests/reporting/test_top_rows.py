"""The few that are kept are those with the least keys, whatever the batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.outputs.ledger import digest_id
from adafv.reporting.top_rows import SHOWN, TopRows, spread_keys


@given(keys=st.lists(st.integers(0, 40), max_size=80), cuts=st.lists(st.integers(0, 80), max_size=4))
def test_the_least_and_of_equal_ones_the_first(keys, cuts):
    kept = TopRows(["place"])
    for part in np.split(np.arange(len(keys)), sorted(min(cut, len(keys)) for cut in cuts)):
        kept.add(pa.record_batch({"place": part, "other": part}), np.array([keys[n] for n in part], dtype=float))
    wanted = sorted(range(len(keys)), key=lambda place: keys[place])[:SHOWN]
    assert kept.rows == [{"place": place} for place in wanted]


def test_no_number_is_never_the_least():
    kept = TopRows(["n"])
    kept.add(pa.record_batch({"n": [0, 1, 2, 3]}), np.array([np.nan, 1.0, -np.inf, np.inf]))
    assert kept.rows == [{"n": 1}]


def test_a_spread_prefers_nobody():
    """Of a thousand draws about half fall on the first half of the ids."""
    keys = np.array([spread_keys(b"".join(digest_id(f"{draw}-{n}") for n in range(100))) for draw in range(1000)])
    first = int((keys.argmin(axis=1) < 50).sum())
    assert 430 < first < 570
