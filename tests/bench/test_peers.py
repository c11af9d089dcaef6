"""The comparison with Ray's own library: what is counted, and that this job leaves no broken row without a reason."""

from __future__ import annotations

import ast
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.bench import peers
from adafv.bench.peers import BROKEN, SCRIPT, Fate, Peer, PeerTerms, broken_rows
from jobs.bench import main
from tests.bench.tiny_shapes import NEXT, subject
from tests.forking import forking_jobs

TERMS = PeerTerms(small=1, large=2, max_new_tokens=2, device="cpu", keep=0.1, usd_per_hour=3.6)


def test_without_vllm_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert main(["peers"]) == 2
    assert "vLLM, which isn't installed here" in capsys.readouterr().err


def test_the_small_file_is_smaller(capsys):
    assert main(["peers", "--small", "4", "--large", "4"]) == 2
    assert "--small 4 must be below --large 4" in capsys.readouterr().err


def test_lines_are_those_of_code():
    statements = {node.lineno for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.stmt)}
    assert len(statements) < peers.peers(TERMS)[0].lines < len(SCRIPT.read_text().splitlines())


def test_a_peers_rows_have_an_answer_or_an_error(tmp_path):
    rows = [
        {"id": "r0", "answer": "yes", "__inference_error__": ""},
        {"id": "broken0", "answer": None, "__inference_error__": "no image"},
        {"id": "broken1", "answer": "no", "__inference_error__": None},
    ]
    for row in rows:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{row['id']}.parquet")
    assert dict(peers._peer_results(tmp_path)) == {"r0": "yes", "broken0": None, "broken1": "no"}


CARELESS = """
import pathlib, sys, time
import pyarrow as pa
import pyarrow.parquet as pq

ids = [row["id"] for row in pq.read_table(sys.argv[1]).to_pylist()]
time.sleep(len(ids) / 10)
kept = [id for id in ids if id in ("r0", "r1", "broken3")][: int(sys.argv[3])]
pathlib.Path(sys.argv[2]).mkdir(parents=True)
pq.write_table(pa.table({"id": kept, "answer": ["a"] * len(kept)}), sys.argv[2] + "/0.parquet")
"""


@pytest.mark.slow(seconds=40)
@pytest.mark.nightly
def test_this_job_gives_each_broken_row_a_reason(forks, tmp_path, monkeypatch):
    """As a user starts it, on a model without pruning."""
    for name, value in forking_jobs().items():
        monkeypatch.setenv(name, value)
    job = peers.peers(TERMS)[1]
    assert job.name == "adafv label --strategy none"
    subject(NEXT).save(str(tmp_path / "model"))
    [good] = peers._good_rows(NEXT, 1)
    (tmp_path / "broken").mkdir()
    rows = pa.Table.from_pylist([good, *broken_rows(good)], schema=peers.SCHEMA)
    pq.write_table(rows, tmp_path / "broken" / "rows.parquet")
    ran = peers._label(job, tmp_path, "broken")
    assert ran.status == 0, ran.said
    assert peers.fate(job, ran.output, "broken", BROKEN) == Fate(answered=0, reasoned=BROKEN, missing=0)
    assert peers.fate(job, ran.output, "r", 1) == Fate(answered=1, reasoned=0, missing=0)


def compared(monkeypatch, command):
    monkeypatch.setattr(peers, "find_spec", lambda name: True)
    made = Peer(name="made up", command=command, results=peers._peer_results, lines=7)
    monkeypatch.setattr(peers, "peers", lambda terms: [made])
    return peers.run(NEXT, TERMS)


def test_good_rows_without_an_answer_are_no_speed(monkeypatch):
    def command(model, input, output):
        return [sys.executable, "-c", CARELESS, str(input), str(output), "1"]

    with pytest.raises(RuntimeError, match="made up ended with status 0 or left good rows unanswered"):
        compared(monkeypatch, command)


def test_what_is_missing_is_counted(monkeypatch):
    """A contender that answers the good rows and one broken one, and drops the others."""

    def command(model, input, output):
        return [sys.executable, "-c", CARELESS, str(input), str(output), "9"]

    [figures], text = compared(monkeypatch, command)
    assert Fate(**figures["broken"]) == Fate(answered=1, reasoned=0, missing=19)
    assert Fate(**figures["good"]) == Fate(answered=1, reasoned=0, missing=0)
    assert figures["usd_per_1000"] == pytest.approx(1 / figures["samples_per_s"])
    assert figures["lines"] == 7 and "made up" in text and "1/1" in text
