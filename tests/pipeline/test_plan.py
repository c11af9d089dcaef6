"""Which rows are new, done or repeated."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id, digest_place
from adafv.pipeline.plan import DONE, NEW, REPEATED, judge, make_plan
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.rows import Columns
from adafv.pipeline.storage import Storage
from tests.pipeline.inputs import write_jsonl

COLUMNS = Columns("id", "image", "question", "{question}", ("question",), None)


def digests(ids: list[str]) -> np.ndarray:
    return np.array([digest_id(id) for id in ids], dtype=DIGEST)


@given(st.lists(st.sampled_from("abcdefghij")), st.lists(st.sampled_from("abcdefghij")))
def test_judge(ids, done):
    seen: set[str] = set()
    expected = []
    for id in ids:
        expected.append(DONE if id in done else REPEATED if id in seen else NEW)
        seen.add(id)
    assert judge(digests(ids), Ledger(digest_id(id) for id in done)).tolist() == expected


def test_digests_that_end_in_zeros_are_told_apart():
    raw = [b"\0" * 16, b"a" + b"\0" * 15, b"a" * 15 + b"\0", b"a" * 16]
    array = np.array(raw, dtype=DIGEST)
    assert judge(np.concatenate([array, array[1:2]]), Ledger([raw[2]])).tolist() == [NEW, NEW, DONE, NEW, REPEATED]


RAW = [bytes([first]) + bytes(14) + bytes([last]) for first in (0, 1, 255) for last in (0, 1, 255)]


@given(st.lists(st.sampled_from(RAW)), st.lists(st.sampled_from(RAW), max_size=4))
def test_judge_within_a_bucket(rows, done):
    """Digests that share their first byte are judged together."""
    first = {digest: i for i, digest in reversed(list(enumerate(rows)))}
    expected = [DONE if d in done else NEW if first[d] == i else REPEATED for i, d in enumerate(rows)]
    assert judge(np.array(rows, dtype=DIGEST), Ledger(done)).tolist() == expected


def test_judging_needs_little_beside_the_digests():
    count = 400_000
    digests = np.frombuffer(np.random.default_rng(0).bytes(16 * count), dtype=DIGEST)
    ledger = Ledger([digests[: count // 2].tobytes()])
    tracemalloc.start()
    try:
        verdicts = judge(digests, ledger)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (verdicts[: count // 2] == DONE).all() and (verdicts[count // 2 :] == NEW).all()
    assert peak < 5 * count, "the verdicts, the first bytes and which of them are equal: one byte each"


def test_an_id_is_not_a_place():
    assert digest_id("x") != digest_place("x")
    assert Ledger([digest_id("x")]).contains(np.array([digest_place("x")], DIGEST)).tolist() == [False]


def plan_of(tmp_path, files: list[list[str]], done: list[str] = [], limit: int | None = None):  # noqa: B006
    units = []
    for i, ids in enumerate(files):
        path = write_jsonl(tmp_path / f"{i}.jsonl", [{"id": id, "image": "x", "question": "q"} for id in ids])
        units += open_source(str(path), Storage(), COLUMNS).units
    return make_plan(units, Ledger(digest_id(id) for id in done), Storage(), COLUMNS, limit, num_cpus=0.25)


def test_repetitions_across_files(ray_local, tmp_path):
    plan = plan_of(tmp_path, [["a", "b"], ["b", "c"], ["a"], ["d"]], done=["d"])
    assert [task.verdicts.tolist() for task in plan.tasks] == [[NEW, NEW], [REPEATED, NEW], [REPEATED]]
    assert (plan.rows, plan.skipped, plan.to_do) == (6, 1, 5)


def test_the_limit_counts_input_rows(ray_local, tmp_path):
    plan = plan_of(tmp_path, [["a", "b"], ["c", "d"], ["e"]], done=["a"], limit=3)
    assert [task.verdicts.tolist() for task in plan.tasks] == [[DONE, NEW], [NEW]]
    assert (plan.rows, plan.skipped) == (3, 1)


def test_more_units_than_run_at_once(ray_local, tmp_path):
    plan = plan_of(tmp_path, [[f"{i}"] for i in range(30)])
    assert len(plan.tasks) == plan.rows == 30
