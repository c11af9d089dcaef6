"""How a job that can't begin ends: with status 1 where the same command may do better later, else with status 2."""

from __future__ import annotations

import json

import pytest

from adafv.pipeline import setup
from adafv.pipeline.store import retry
from jobs.label import main
from tests.faulty_store import Fault, FaultyStore
from tests.services import free_ports

AWAY, FAULTS = 1, 2  # exit statuses
KINDS = [("slow_down", AWAY), ("reset", AWAY), ("denied", FAULTS), ("unknown_key", FAULTS)]


@pytest.fixture
def bucket(s3, monkeypatch) -> str:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    monkeypatch.setattr(setup, "PATIENCE", 0.0)
    return s3.new_bucket()


def label(*arguments: object) -> int:
    return main(["--prompt", "w1", *map(str, arguments)])


@pytest.mark.parametrize(("kind", "status"), KINDS)
def test_an_input_that_cannot_be_asked_for(s3, bucket, tmp_path, kind, status, capsys):
    with FaultyStore(s3.endpoint, [Fault(kind, method="*")]) as store:
        arguments = ["--output", tmp_path, "--s3-endpoint", store.endpoint]
        for place in ("x.jsonl", ""):
            assert label("--input", f"s3://{bucket}/{place}", *arguments) == status
            assert f"--input s3://{bucket}" in capsys.readouterr().err


def test_a_store_that_is_not_there(bucket, tmp_path, capsys):
    endpoint = f"http://127.0.0.1:{free_ports(1)}"
    assert label("--input", f"s3://{bucket}/x", "--output", tmp_path, "--s3-endpoint", endpoint) == AWAY
    assert f"--input s3://{bucket}/x can't be read" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--input", "s3://no-such-bucket-here/x"], ["--s3-endpoint", "localhost"]])
def test_s3_options_that_are_wrong(bucket, tmp_path, options):
    assert label("--input", f"s3://{bucket}/x", "--output", tmp_path, *options) == FAULTS


@pytest.mark.parametrize(("kind", "status"), [*KINDS[1:], ("expired", AWAY)])
def test_an_output_that_cannot_be_written(ray_local, s3, bucket, tiny_model, tmp_path, kind, status, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": 1, "image": "x.jpg"}))
    with FaultyStore(s3.endpoint, [Fault(kind, method="*")]) as store:
        arguments = ["--input", tmp_path / "rows.jsonl", "--model", tiny_model, "--s3-endpoint", store.endpoint]
        assert label("--output", f"s3://{bucket}/out", *arguments) == status
        assert f"--output s3://{bucket}/out can't be written" in capsys.readouterr().err
