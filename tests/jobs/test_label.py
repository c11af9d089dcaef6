"""The command: exit statuses, what it prints, and the same labels when submitted to a cluster as a Ray job."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from adafv.pipeline.errors import RunError
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.store.output import LocalOutput
from adafv.worlds.drawn.dataset import rows, write_shards
from jobs.label import main
from jobs.report import main as report
from tests.forking import forking_jobs
from tests.jobs.half import HALF
from tests.models.general.tiny import build
from tests.pipeline.inputs import write_all, write_images, write_jsonl, write_structs
from tests.services import PROGRAMS, RayCluster, without_ray

REPOSITORY = Path(__file__).parents[2]
ROWS = 200


def command(model: Path, output: Path, *inputs: Path) -> list[str]:
    return [
        "--input", *map(str, inputs), "--output", str(output), "--model", str(model), "--max-new-tokens", "4",
        "--keep", "0.25",
    ]  # fmt: skip


def answers(output: Path) -> dict[str, tuple[str, list[int]]]:
    rows = ds.dataset(output / "labels").to_table(columns=["id", "answer", "kept_indices"]).to_pylist()
    found = {row["id"]: (row["answer"], row["kept_indices"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_done(ray_local, tiny_model, tmp_path, capsys):
    path = write_structs(tmp_path / "rows.parquet")
    assert main([*command(tiny_model, tmp_path / "out", path), "--price-per-hour", "1"]) == 0
    out = capsys.readouterr().out
    assert "labelled               4" in out and f"{tmp_path / 'out'}/labels/" in out and "USD per 1,000" in out
    assert len(answers(tmp_path / "out")) == 4


def test_a_type_without_an_adapter_of_its_own(ray_local, tmp_path, capsys):
    model, path = build("gemma3", tmp_path / "model"), write_structs(tmp_path / "rows.parquet")
    assert main(command(model, tmp_path / "out", path)) == 0
    assert "labelled               4" in capsys.readouterr().out
    assert all(kept for _, kept in answers(tmp_path / "out").values())
    assert report([str(tmp_path / "out"), "--html", str(tmp_path / "report.html")]) == 0


def test_an_encoder_and_decoder_is_refused_before_anything_runs(ray_local, tmp_path, capsys):
    model, path = build("t5gemma2", tmp_path / "model"), write_structs(tmp_path / "rows.parquet")
    assert main(command(model, tmp_path / "out", path)) == 2
    assert "encoder" in capsys.readouterr().err


def test_too_many_rejects(ray_local, tiny_model, tmp_path, capsys):
    """Three of four rows have no image; the rate is that of the run, so a rerun with nothing to do is fine."""
    write_images(tmp_path)
    rows = [{"id": i, "image": f"{'plain.jpg' if i == 0 else 'none.jpg'}", "question": "w1"} for i in range(4)]
    arguments = command(tiny_model, tmp_path / "out", write_jsonl(tmp_path / "rows.jsonl", rows))
    assert main([*arguments, "--max-reject-rate", "0.74"]) == 3
    captured = capsys.readouterr()
    assert (
        "image_not_found      3" in captured.out
        and "3 of 4 rows were rejected; --max-reject-rate is 0.74" in captured.err
    )
    assert main([*arguments, "--max-reject-rate", "0.74"]) == 0


def test_nothing_but_rejects(ray_local, tiny_model, tmp_path, capsys):
    rows = [{"id": i, "image": f"{i}.jpg", "question": "w1"} for i in range(3)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert main(command(tiny_model, tmp_path / "out", path)) == 3
    said = capsys.readouterr().err
    assert "every row was rejected (with --max-reject-rate 1" in said and "3 image_not_found, such as " in said
    assert "--image-root is the base" in said
    assert main([*command(tiny_model, tmp_path / "out", path), "--retry-rejects", "--max-reject-rate", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "/no/such/place"], "there is nothing"),
        (["--output", "/proc/nothing"], "--output /proc/nothing"),
        (["--keep", "7"], "--keep is 7.0"),
        (["--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["--model", "/no/such/model"], "--model /no/such/model can't be loaded"),
    ],
)
def test_usage(ray_local, tiny_model, tmp_path, arguments, said, capsys):
    path = write_structs(tmp_path / "rows.parquet")
    assert main([*command(tiny_model, tmp_path / "out", path), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed(ray_local, tiny_model, tmp_path, capsys):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    path = write_structs(tmp_path / "rows.parquet")
    assert main(command(tmp_path / "model", tmp_path / "out", path)) == 1
    assert "resumes it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; make test-vllm installs it")
def test_answers_by_vllm(ray_local, tmp_path):
    """Those of the other back end, in an output of their own: in its output they are refused."""
    write_shards(tmp_path / "scenes", rows(1))
    outputs = {name: tmp_path / name for name in ("transformers", "vllm")}
    for name, output in outputs.items():
        arguments = ["--backend", name, "--positions", "compact"]
        assert main([*command(Path("testbed"), output, tmp_path / "scenes"), *arguments]) == 0
    assert answers(outputs["vllm"]) == answers(outputs["transformers"])
    refused = [*command(Path("testbed"), outputs["transformers"], tmp_path / "scenes"), "--backend", "vllm"]
    assert main(refused) == 2


def run_alone(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    """The job in a process of its own, with its own Ray, until half of the rows are labelled."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.half", *arguments],
        cwd=cwd, env=without_ray() | forking_jobs() | {HALF: str(ROWS // 2)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.nightly)])
def test_a_run_that_is_ended_half_way_is_resumed(ray_local, tiny_model, tmp_path, ended_by, caplog):
    """From a folder that isn't the checkout. While it lives, a second job on the same output is refused; after, the
    rerun, in other batches, takes over at once and does just the rest. SIGTERM keeps all that was labelled. (Runs
    that were killed are resumed in test_nights and test_campaign, too.)"""
    write_images(tmp_path)
    rows = [{"id": i, "image": "plain.jpg", "question": f"w{i % 200}"} for i in range(ROWS)]
    arguments = command(tiny_model, tmp_path / "out", write_jsonl(tmp_path / "rows.jsonl", rows))
    process = run_alone([*arguments, "--run-id", "first", "--batch-size", "1"], cwd=tmp_path)
    for line in process.stderr or ():
        if f"/{ROWS:,} rows" in line and f" 0/{ROWS:,} rows" not in line:
            with pytest.raises(RunError, match="is being written by run first"):
                Lease(LocalOutput(str(tmp_path / "out")), "second").__enter__()
            process.send_signal(ended_by)
            break
    process.communicate(timeout=600)
    record = json.loads((tmp_path / "out" / "runs" / "first.json").read_text())
    done = answers(tmp_path / "out") if (tmp_path / "out" / "labels").exists() else {}
    if ended_by == signal.SIGTERM:
        assert process.returncode == 1
        assert (record["status"], record["error"]) == ("failed", "interrupted")
        assert 0 < len(done) == record["counts"]["labelled"] < ROWS
    else:
        assert process.returncode == -signal.SIGKILL
        assert record["status"] == "running"
        assert len(done) < ROWS
    caplog.set_level(logging.INFO, "adafv")
    assert main([*arguments, "--batch-size", "64"]) == 0, caplog.text
    assert f"{len(done):,} done before" in caplog.text
    final = answers(tmp_path / "out")
    assert len(final) == ROWS and {id: final[id] for id in done} == done


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    """A Ray head node of its own, with a job server."""
    with RayCluster(dashboard=True) as cluster:
        yield cluster


@pytest.mark.slow
def test_ray_job_submit(ray_local, tiny_model, tmp_path, cluster):
    """Only the working directory is there: a copy of adafv/ and jobs/, not this checkout, and not installed."""
    work = tmp_path / "work"
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("adafv", "jobs"):
        shutil.copytree(REPOSITORY / name, work / name, ignore=ignore)
    path = write_all(tmp_path / "in")["jsonl"]
    assert main(command(tiny_model, tmp_path / "direct", path)) == 0
    address = cluster.dashboard_address
    arguments = ["job", "submit", "--address", address, "--working-dir", ".", "--", sys.executable, "jobs/label.py"]
    submitted = subprocess.run(
        [str(PROGRAMS / "ray"), *arguments, *command(tiny_model, tmp_path / "job", path)],
        cwd=work, env=without_ray() | cluster.environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    assert "labelled               4" in submitted.stdout
    assert answers(tmp_path / "job") == answers(tmp_path / "direct") and len(answers(tmp_path / "job")) == 4


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plan(ray_local, tiny_model, tmp_path, capsys):
    """By a sample, by another output, and by nothing; it writes nothing, and says what is wrong as a run would."""
    write_images(tmp_path)
    rows = [{"id": i, "image": "plain.jpg", "question": f"w{i}"} for i in range(160)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = command(tiny_model, tmp_path / "out", path)
    assert main([*arguments, "--plan"]) == 2
    assert "--sample 320" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*arguments, "--sample", "100", "--price-per-hour", "2"]) == 0
    capsys.readouterr()
    before = files_under(tmp_path)
    limits = ["--workers", "3", "--max-hours", "9", "--max-cost", "5", "--price-per-hour", "1"]
    assert main([*arguments, "--plan", *limits]) == 0
    said = re.sub(" +", " ", capsys.readouterr().out)
    for wanted in ("done before 100\n", "to do 60 (", "with 1 worker on", "workers 3\n", "limited by"):
        assert wanted in said, said
    for wanted in ("for 5.00 USD 60 rows, 0 left\n", "in 9 hours 60 rows, 0 left; all of them need 1 worker\n"):
        assert wanted in said, said
    [made] = (tmp_path / "out" / "runs").iterdir()
    [device] = json.loads(made.read_text())["hardware"]["devices"]
    free = f"- {{device: {json.dumps(device['device'])}, usd_per_hour: 0, date: 2026-11-22, source: made up}}"
    (tmp_path / "prices.yaml").write_text(free)
    assert main([*arguments, "--plan", "--prices", str(tmp_path / "prices.yaml")]) == 0
    assert re.search(r"USD +0\.0000\n", capsys.readouterr().out), "not at the 2 USD of the run"
    (tmp_path / "prices.yaml").unlink()
    assert main([*arguments, "--plan", "--prices", str(tmp_path / "prices.yaml")]) == 2
    assert "prices.yaml can't be read" in capsys.readouterr().err
    elsewhere = [*command(tiny_model, tmp_path / "new", path), "--plan"]
    assert main([*elsewhere, "--measured", str(tmp_path / "out")]) == 0
    assert "160 (listed in" in capsys.readouterr().out
    assert main([*elsewhere, "--measured", str(tmp_path / "out"), "--strategy", "none"]) == 2
    assert "strategy was 'adafv-plus' and is 'none'" in capsys.readouterr().err
    assert main([*arguments, "--plan", "--measured", str(tmp_path / "out"), "--keep", "0.5"]) == 2
    assert "keep was 0.25 and is 0.5" in capsys.readouterr().err
    assert main([*arguments, "--measured", str(tmp_path / "out")]) == 2
    assert "--measured is only for --plan" in capsys.readouterr().err
    assert files_under(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_limit_that_is_reached_before_the_first_batch(ray_local, tiny_model, tmp_path, capsys):
    """Nothing is labelled, nothing is lost; a failing hook changes nothing; the same command then does it all."""
    path = write_structs(tmp_path / "rows.parquet")
    arguments = command(tiny_model, tmp_path / "out", path)
    assert main([*arguments, "--run-id", "r", "--max-hours", "1e-9", "--on-finish", "false"]) == 4
    record = json.loads((tmp_path / "out" / "runs" / "r.json").read_text())
    assert (record["status"], record["stopped_by"], record["counts"]["left"]) == ("stopped", "max-hours", 4)
    assert record["config"]["on_finish"] == "false"
    assert "left for another run   4\n" in capsys.readouterr().out
    assert main(arguments) == 0
    assert len(answers(tmp_path / "out")) == 4
