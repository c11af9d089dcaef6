"""A few hundred cases of the fuzzer, and three thousand at night; python -m tests.fuzz runs as many as one likes."""

from __future__ import annotations

import pytest

from tests.forking import forking_jobs
from tests.fuzz import images, job, schemas
from tests.fuzz.__main__ import decode_all
from tests.fuzz.rows import json_line, table

SEED = 7


@pytest.mark.slow
@pytest.mark.parametrize("count", [120, pytest.param(1500, marks=pytest.mark.nightly)])
def test_every_case_ends_in_one_output(forks, tiny_model, tmp_path, count):
    """So many damaged images, and so many odd rows."""
    inputs = job.write_inputs(tmp_path / "in", count, count, SEED)
    outcome = job.run_job(inputs, tmp_path / "out", tiny_model, deadline=500, variables=forking_jobs())
    assert job.problems(inputs, outcome, tmp_path / "out") == []
    counts = job.counts(tmp_path / "out")
    assert sum(counts.values()) == inputs.count and counts["labelled"] > count / 10
    assert not {"worker_died", "prepare_died"} & set(counts), "no case is known that needs its process ended"


@pytest.mark.slow
@pytest.mark.nightly
def test_decoding_does_not_leak():
    found = decode_all(3000, SEED)
    assert found["end_mib"] < found["halfway_mib"] + 100, found
    assert found["log_bytes"] < 10_000, "decoders fill the log"


def test_no_schema_ends_in_an_exception(tmp_path):
    found = schemas.fuzz(500, SEED, tmp_path)
    assert found["problems"] == [] and found["outcomes"]["labelled"] > 100 < found["outcomes"]["refused"]


def test_cases_are_made_of_their_numbers():
    assert schemas.table(5, SEED)[0].equals(schemas.table(5, SEED)[0])
    assert images.image(5, SEED) == images.image(5, SEED) != images.image(6, SEED)
    assert json_line(5, SEED) == json_line(5, SEED) != json_line(6, SEED)
    assert str(table(range(9), SEED)) == str(table(range(9), SEED))


def test_a_loss_is_noticed(tmp_path):
    """The check of the outputs is no better than what it finds."""
    (tmp_path / "out" / "labels").mkdir(parents=True)
    inputs = job.Inputs(count=1, ids={"r1"})
    found = job.problems(inputs, job.Outcome(1, "", 0, 0, 0), tmp_path / "out")
    assert len(found) == 3, found
