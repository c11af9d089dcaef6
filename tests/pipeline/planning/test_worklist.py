"""Which rows are new, done or repeated."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.errors import RunError
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_id, digest_place
from adafv.pipeline.planning.worklist import (
    DONE,
    NEW,
    REPEATED,
    UNDRAWN,
    UNREAD,
    draw,
    draw_stretches,
    judge,
    make_worklist,
    map_units,
)
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import write_jsonl

COLUMNS = Columns(id="id", image="image", question="question", prompt="{question}", prompt_columns=("question",))


def digests(ids: list[str]) -> np.ndarray:
    return np.array([digest_id(id) for id in ids], dtype=DIGEST)


LETTERS = st.lists(st.sampled_from("abcdefghij"))


@given(LETTERS, LETTERS, LETTERS)
def test_judge(ids, done, rejected):
    """Of an id's repetitions, as many are done as were rejected."""
    repeats = Counter(rejected)
    expected = []
    for number, id in enumerate(ids):
        if id not in ids[:number]:
            expected.append(DONE if id in done else NEW)
        else:
            expected.append(DONE if repeats[id] > 0 else REPEATED)
            repeats[id] -= 1
    ledger = Ledger(map(digest_id, done), Ledger(map(digest_id, rejected)))
    assert judge(digests(ids), ledger).tolist() == expected


def test_digests_that_end_in_zeros_are_told_apart():
    raw = [b"\0" * 16, b"a" + b"\0" * 15, b"a" * 15 + b"\0", b"a" * 16]
    array = np.array(raw, dtype=DIGEST)
    assert judge(np.concatenate([array, array[1:2]]), Ledger([raw[2]])).tolist() == [NEW, NEW, DONE, NEW, REPEATED]


RAW = [bytes([first]) + bytes(14) + bytes([last]) for first in (0, 1, 255) for last in (0, 1, 255)]


@given(st.lists(st.sampled_from(RAW)), st.lists(st.sampled_from(RAW), max_size=4))
def test_judge_within_a_bucket(rows, done):
    """Digests that share their first byte are judged together."""
    first = {digest: i for i, digest in reversed(list(enumerate(rows)))}
    expected = [REPEATED if first[d] != i else DONE if d in done else NEW for i, d in enumerate(rows)]
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


IDS = st.lists(st.text("abcdefghij", min_size=1, max_size=2), max_size=40)


def drawn(ids: list[str], size: int) -> set[str]:
    """The ids that are drawn from so many."""
    ledger = draw(digests(ids), size)
    found = {id for id in ids if ledger.contains(digests([id]))[0]}
    assert len(ledger) == len(found)
    return found


@given(IDS, st.integers(1, 50), st.randoms())
def test_as_many_distinct_ids_are_drawn_as_asked_for_whatever_their_order(ids, size, random):
    found = drawn(ids, size)
    assert len(found) == min(size, len(set(ids)))
    assert drawn(random.sample(ids, len(ids)), size) == found


@given(IDS, IDS, st.integers(1, 50))
def test_a_sample_is_part_of_a_larger_one_and_of_itself_before_the_input_grew(ids, more, size):
    found = drawn(ids, size)
    assert found <= drawn(ids, size + 1)
    assert drawn(ids + more, size) & set(ids) <= found, "a new row may take an old one's place, never bring one back"


def test_every_row_is_as_likely_to_be_drawn():
    """Ids as they come: in order, and alike. Their sample is spread evenly, wherever one looks."""
    count, size = 100_000, 10_000
    chosen = draw(digests([f"image-{i:06d}.jpg" for i in range(count)]), size)
    where = chosen.contains(digests([f"image-{i:06d}.jpg" for i in range(count)])).reshape(10, -1).sum(axis=1)
    assert where.sum() == size
    assert abs(where - size / 10).max() < 5 * (size / 10 * 0.9) ** 0.5  # five standard deviations


def test_ties_are_drawn_by_what_else_there_is():
    """Digests that agree in the half that decides."""
    raw = [bytes([n]) * 8 + b"z" * 8 for n in (1, 200, 3)]
    assert draw(np.array(raw, DIGEST), 2).contains(np.array(raw, DIGEST)).tolist() == [True, False, True]
    assert draw(np.array(raw[::-1], DIGEST), 2).contains(np.array(raw, DIGEST)).tolist() == [True, False, True]


def test_the_half_that_decides_is_not_the_one_that_others_cut_by():
    raw = np.array([bytes([n]) * 8 + bytes([9 - n]) * 8 for n in range(9)], DIGEST)
    assert draw(raw, 2).contains(raw).tolist() == [False] * 7 + [True] * 2


def in_stretches(units: list[list[str]], size: int, length: int) -> list[list[bool]]:
    """Which rows of some units are drawn."""
    ids = [id for unit in units for id in unit]
    ledger = draw_stretches(digests(ids), [len(unit) for unit in units], size, length)
    return [ledger.contains(digests(unit)).tolist() if unit else [] for unit in units]


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 60), st.integers(1, 12))
def test_stretches_are_whole_but_for_the_last_and_as_many_rows_as_asked_for(counts, size, length):
    units = [[f"{unit}-{row}" for row in range(count)] for unit, count in enumerate(counts)]
    found = in_stretches(units, size, length)
    assert sum(map(sum, found)) == min(size, sum(counts))
    stretches = [unit[start : start + length] for unit in found for start in range(0, len(unit), length)]
    cut = [stretch for stretch in stretches if any(stretch) and not all(stretch)]
    assert len(cut) <= 1
    assert all(stretch == sorted(stretch, reverse=True) for stretch in cut), "what is cut off is at its end"


@given(st.integers(1, 60), st.integers(1, 12))
def test_a_sample_of_stretches_is_part_of_a_larger_one_and_grows_with_the_input(size, length):
    units = [[f"{unit}-{row}" for row in range(25)] for unit in range(3)]
    found, larger = in_stretches(units, size, length), in_stretches(units, size + 9, length)
    assert all(more >= less for of, mo in zip(found, larger, strict=True) for less, more in zip(of, mo, strict=True))
    grown = in_stretches([[f"new-{row}" for row in range(25)], *units], size, length)[1:]
    assert all(before >= now for of, no in zip(found, grown, strict=True) for before, now in zip(of, no, strict=True))


def test_a_repetition_takes_no_place_in_a_stretch():
    assert in_stretches([["a", "a", "a", "b", "c"]], 3, 4) == [[True] * 5]


def test_every_stretch_is_as_likely_to_be_drawn():
    count, size = 100_000, 10_000
    ids = digests([f"image-{i:06d}.jpg" for i in range(count)])
    where = draw_stretches(ids, [count], size, 10).contains(ids).reshape(10, -1).sum(axis=1) / 10  # stretches
    assert where.sum() == size / 10
    assert abs(where - size / 100).max() < 5 * (size / 100 * 0.9) ** 0.5  # five standard deviations


def test_drawing_needs_little_beside_the_digests():
    count = 400_000
    digests = np.frombuffer(np.random.default_rng(0).bytes(16 * count), dtype=DIGEST)
    tracemalloc.start()
    try:
        chosen = draw(digests, 1000)
        verdicts = judge(digests, Ledger(), chosen)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (verdicts == NEW).sum() == 1000 and (verdicts == UNDRAWN).sum() == count - 1000
    assert peak < 5 * count


@given(IDS, IDS, st.integers(1, 20))
def test_what_is_not_drawn_is_no_part_of_the_input(ids, done, size):
    seen: set[str] = set()
    chosen, expected = drawn(ids, size), []
    for id in ids:
        expected.append(UNDRAWN if id in seen or id not in chosen else DONE if id in done else NEW)
        seen.add(id)
    assert judge(digests(ids), Ledger(digest_id(id) for id in done), draw(digests(ids), size)).tolist() == expected


def plan_of(
    tmp_path,
    files: list[list[str]],
    done: list[str] = [],  # noqa: B006
    limit: int | None = None,
    sample: int | None = None,
    adjacent: int = 1,
):
    units = []
    for i, ids in enumerate(files):
        path = write_jsonl(tmp_path / f"{i}.jsonl", [{"id": id, "image": "x", "question": "q"} for id in ids])
        units += open_source(str(path), Storage(), COLUMNS).units
    return make_worklist(
        units,
        Ledger(digest_id(id) for id in done),
        storage=Storage(),
        columns=COLUMNS,
        num_cpus=0.25,
        limit=limit,
        sample=sample,
        adjacent=adjacent,
    )


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


def test_a_sample(ray_local, tmp_path):
    """Rows are counted, and files read, as if there were no others; the limit comes first."""
    ids = [f"row-{i}" for i in range(12)]
    chosen = drawn(ids[:10], 3)
    first = next(id for id in ids if id in chosen)
    plan = plan_of(tmp_path, [[id, id] for id in ids], done=[first], limit=20, sample=3)
    assert (plan.rows, plan.skipped, plan.to_do) == (3, 1, 2)
    assert [task.verdicts.tolist() for task in plan.tasks] == [[NEW, UNDRAWN]] * 2
    assert plan.sample is not None and len(plan.sample) == 3
    assert plan_of(tmp_path, [[id] for id in ids], sample=100).rows == 12


def test_a_sample_of_adjacent_rows(ray_local, tmp_path):
    ids = [[f"{file}-{row}" for row in range(6)] for file in range(3)]
    plan = plan_of(tmp_path, ids, sample=5, adjacent=3)
    whole, cut = sorted((task.verdicts == NEW).reshape(2, 3).sum(axis=1).max() for task in plan.tasks)[::-1]
    assert (plan.rows, whole, cut) == (5, 3, 2)


def test_an_input_that_can_only_be_read_in_part(ray_local, tmp_path, caplog):
    """What can't be read may be drawn like any row; that there is such a place is said in any case."""
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}")[:12])
    units = open_source(str(path), Storage(), COLUMNS).units
    plan = make_worklist(units, Ledger(), storage=Storage(), columns=COLUMNS, num_cpus=0.25, sample=5)
    assert [task.verdicts.tolist() for task in plan.tasks] == [[UNREAD]]
    assert "1 places of the input can't be read" in caplog.text


def test_a_scanning_task_that_dies_or_raises_fails_the_run(ray_local, tmp_path):
    [unit] = open_source(str(write_jsonl(tmp_path / "rows.jsonl")), Storage(), COLUMNS).units
    for deed, said in ((lambda _: 1 // 0, "ZeroDivisionError"), (lambda _: os._exit(1), "WorkerCrashedError")):
        with pytest.raises(RunError, match=f"rows.jsonl can't be read: .*{said}"):
            list(map_units(deed, [unit], 0.1))
