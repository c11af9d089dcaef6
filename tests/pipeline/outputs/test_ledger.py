"""What is done, as digests: exact, and no larger than it says."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.outputs.ledger import DIGEST, FILES_AHEAD, Ledger, digest_id, digest_place, read_ledger
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from tests.pipeline.outputs.test_sink import label, reject, results

# Digests that share a first byte, differ in the last only, or end in zeros, which numpy takes for padding.
RAW = [bytes([first]) + bytes(14) + bytes([last]) for first in (0, 1, 255) for last in (0, 1, 255)]


@given(st.lists(st.sampled_from(RAW)), st.lists(st.sampled_from(RAW)))
def test_contains(done, asked):
    assert Ledger(done).contains(np.array(asked, dtype=DIGEST)).tolist() == [digest in done for digest in asked]


def test_digests_may_come_several_at_a_time():
    ledger = Ledger([RAW[3] + RAW[0], b"", RAW[8]])
    assert len(ledger) == 3
    assert ledger.contains(np.array(RAW, dtype=DIGEST)).tolist() == [i in (0, 3, 8) for i in range(9)]


def test_it_holds_sixteen_bytes_per_row_and_no_copy():
    digests = np.random.default_rng(0).bytes(16 * 200_000)
    tracemalloc.start()
    try:
        ledger = Ledger(digests[start : start + 16_000] for start in range(0, len(digests), 16_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(ledger) == 200_000
    assert peak < 20 * 200_000, "a byte array grows by an eighth"


@pytest.mark.parametrize("store", ["local", "s3"])
def test_more_files_than_are_read_at_once(store, request, tmp_path):
    if store == "local":
        output = open_output(str(tmp_path), Storage())
    else:
        s3 = request.getfixturevalue("s3")
        output = open_output(f"s3://{s3.new_bucket()}/out", Storage.from_environment(environment=s3.environment))
    sink = Sink(output, "r", rows=2)
    ids = [f"数据-{i}" for i in range(34)]
    for i in range(0, len(ids), 2):
        sink.add(results(label(ids[i]), label(ids[i + 1])))
    sink.add(results(reject("坏", "image_empty")))
    sink.close()
    assert len(output.parquet_files("labels")) == 17 > FILES_AHEAD
    ledger = read_ledger(output, retry_rejects=False)
    assert len(ledger) == 34 + 1
    known = [*map(digest_id, ids), digest_id("坏"), digest_id("数据-34"), digest_place("坏")]
    assert ledger.contains(np.array(known, dtype=DIGEST)).tolist() == [True] * 35 + [False, False]
