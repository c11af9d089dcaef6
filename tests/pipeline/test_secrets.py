"""No secret in anything that a run leaves behind: its terminal, its outputs, Ray's logs.

Secrets are planted wherever a user may have them: in the environment, in the options, in the data set's image URIs.
Each is a word that occurs nowhere else, so that finding it is a leak.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adafv.internals import global_node
from adafv.pipeline import setup
from adafv.pipeline.store import retry
from jobs.label import main
from tests.forking import forking_jobs
from tests.loopback_hub import LoopbackHub
from tests.pipeline.inputs import write_images, write_jsonl, write_structs, write_uris
from tests.pipeline.pictures import SOUND
from tests.services import S3_SECRET, S3Server, without_ray

REPOSITORY = Path(__file__).parents[2]
WORD = "planted"  # in every secret but that of the S3 server
KEY = "planted/secret+key"  # with a slash, as AWS's have
URIS = {
    "presigned": "http://127.0.0.1:9/x.jpg?X-Amz-Credential=planted-id&X-Amz-Signature=planted-signature",
    "password": "https://user:planted-password@127.0.0.1:9/x.jpg",
    "odd password": "https://user:planted@planted'planted@127.0.0.1:9/x.jpg",
    "spaces": "http://127.0.0.1:9/x.jpg?a=b c&token=planted",
    "keys": f"s3://AKIA:{KEY}@bucket/x.jpg",
    "broken": "http://[half?sig=planted",
    "odd host": "http://user:planted\u2100@host/x.jpg",
    "other scheme": "ftp://user:planted@host/x?sig=planted",
    "data": "data://user:planted@host/x",
}
ENVIRONMENT = {
    "HF_TOKEN": "hf_planted",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
    "AWS_SECRET_ACCESS_KEY": KEY,
    "AWS_SESSION_TOKEN": "planted-session",
    "AWS_REGION": "us-east-1",
}


@pytest.fixture
def ray_folder(forks: None) -> Iterator[Path]:
    """Where Ray puts its session; short, because it puts sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def rows() -> list[dict[str, str]]:
    found = [{"id": name, "image": uri, "question": "w1"} for name, uri in URIS.items()]
    return [*found, {"id": "sound", "image": "plain.jpg", "question": "w1"}]


def run_job(arguments: list[str], ray_folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """(exit status, what it printed) of jobs/label.py as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "label.py"), *arguments, "--max-new-tokens", "2"],
        env=without_ray() | forking_jobs() | {"RAY_TMPDIR": str(ray_folder)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


def assert_clean(text: str, where: object) -> None:
    for word in (WORD, S3_SECRET):
        at = text.find(word)
        assert at < 0, f"{where}: …{text[max(0, at - 300) : at + 100]}…"


def assert_logs_clean(ray_folder: Path) -> None:
    logs = [path for path in ray_folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker") for path in logs), "Ray put its session elsewhere"
    for path in logs:
        assert_clean(path.read_text(errors="replace"), path)


def assert_output_clean(output: Path) -> None:
    """Of Parquet the values are looked at, for its bytes are compressed."""
    files = [path for path in output.rglob("*") if path.is_file()]
    assert files
    for path in files:
        parquet = path.suffix == ".parquet"
        assert_clean(str(pq.read_table(path).to_pylist()) if parquet else path.read_text(), path)


def download(s3: S3Server, bucket: str, prefix: str, folder: Path) -> Path:
    for item in s3.client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        path = folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.client.download_file(bucket, item["Key"], str(path))
    return folder


@pytest.mark.slow
def test_a_run_that_labels_and_rejects(s3, tiny_model, tmp_path, ray_folder):
    """On S3, with keys in the environment, and a private data set of the Hub, whose commit the run's record has. One
    row is labelled that names a signed URI beside its bytes; one names an image on the Hub, which isn't opened for it.
    """
    folder = write_images(tmp_path / "in")
    write_jsonl(folder / "rows.jsonl", rows())
    named = [{"id": name, "image": {"bytes": SOUND["plain.png"], "path": uri}} for name, uri in URIS.items()]
    write_uris(folder / "named.parquet", [row | {"id": f"named {row['id']}", "question": "w1"} for row in named])
    bucket = s3.new_bucket()
    s3.upload(folder, f"s3://{bucket}/in")
    table = write_structs(tmp_path / "rows.parquet").read_bytes()
    linked = write_uris(
        tmp_path / "linked.parquet", [{"id": "x", "image": "hf://datasets/org/set/a.jpg", "question": "w"}]
    )
    with LoopbackHub("hf_planted") as hub:
        sha = hub.commit("org/set", {"data/train-0.parquet": table, "linked.parquet": linked.read_bytes()})
        hub.private.add("org/set")
        status, printed = run_job(
            [
                "--input", f"s3://{bucket}/in/rows.jsonl", f"s3://{bucket}/in/named.parquet", "hf://datasets/org/set",
                "--output", f"s3://{bucket}/out", "--model", str(tiny_model), "--allow-http",
            ],
            ray_folder,
            {"HF_TOKEN": "hf_planted", "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
            | s3.environment,
        )  # fmt: skip
    assert_clean(printed, "printed")
    assert status == 0, printed
    output = download(s3, bucket, "out/", tmp_path) / "out"
    assert_output_clean(output)
    assert_logs_clean(ray_folder)
    labels, rejects = (pq.read_table(output / name).to_pylist() for name in ("labels", "rejects"))
    of_hub = [row for row in labels if f"hf://datasets/org/set@{sha}/data/train-0.parquet#" in str(row)]
    assert len(of_hub) == 4 and len(labels) == len(URIS) + 1 + 4
    assert len(rejects) == len(URIS) + 1 and "x" in {row["id"] for row in rejects}
    (record,) = (json.loads(path.read_text()) for path in (output / "runs").iterdir())
    assert record["config"]["input"][-1] == f"hf://datasets/org/set@{sha}"


def test_a_run_that_fails(ray_local, tiny_model, tmp_path, monkeypatch, capfd, caplog):
    """In the workers, whose errors Ray logs with all that it knows of the task."""
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": "http://user:planted@127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    folder = write_images(tmp_path / "in")
    path = write_jsonl(folder / "rows.jsonl", rows())
    arguments = ["--input", str(path), "--output", str(tmp_path / "out"), "--model", str(model), "--allow-http"]
    assert main(arguments) == 1
    captured = capfd.readouterr()
    assert_clean(captured.out + captured.err + caplog.text, "printed")
    assert_output_clean(tmp_path / "out")
    assert_logs_clean(Path(global_node().get_session_dir_path()))


SECRET_URI = "https://user:planted@127.0.0.1:9/x?sig=planted"


@pytest.mark.parametrize(
    "options",
    [
        ["--input", SECRET_URI],
        ["--input", f"s3://AKIA:{KEY}@bucket/x.jsonl"],
        ["--input", "s3://bucket/x.jsonl"],
        ["--output", SECRET_URI],
        ["--output", f"s3://AKIA:{KEY}@bucket/out"],
        ["--output", "s3://bucket/out"],
        ["--image-root", f"s3://AKIA:{KEY}@bucket/images"],
        ["--model", SECRET_URI],
        ["--model", f"s3://AKIA:{KEY}@bucket/model"],
        ["--model", "s3://bucket/model"],
        ["--input", "s3://bucket/x.jsonl", "--s3-endpoint", "http://user:planted@127.0.0.1:9"],
        ["--run-id", SECRET_URI],
    ],
    ids=lambda options: " ".join(options).replace("planted", "…"),
)
def test_options_that_are_refused(options, s3, ray_local, tiny_model, tmp_path, monkeypatch, capfd, caplog):
    """Also with keys that the store doesn't know."""
    monkeypatch.setattr(setup, "PATIENCE", 0.0)
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    for name, value in ({"AWS_ENDPOINT_URL": s3.endpoint} | ENVIRONMENT).items():
        monkeypatch.setenv(name, value)
    path = write_jsonl(write_images(tmp_path / "in") / "rows.jsonl", rows()[-1:])
    given = ["--input", str(path)] if "--input" not in options else []
    given += ["--output", str(tmp_path / "out")] if "--output" not in options else []
    given += ["--model", str(tiny_model)] if "--model" not in options else []
    assert main([*given, *options, "--max-new-tokens", "2"]) in (1, 2)
    captured = capfd.readouterr()
    assert captured.err
    assert_clean(captured.out + captured.err + caplog.text, "printed")


def test_options_that_are_recorded(ray_local, tiny_model, tmp_path, capfd, caplog, monkeypatch):
    """Where a secret is allowed, as in the endpoint's URL, the run's record does without it."""
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    path = write_jsonl(write_images(tmp_path / "in") / "rows.jsonl", rows()[-1:])
    arguments = [
        "--input",
        str(path),
        "--output",
        str(tmp_path / "out"),
        "--model",
        str(tiny_model),
        "--max-new-tokens",
    ]
    assert main([*arguments, "2", "--s3-endpoint", "http://user:planted@127.0.0.1:9", "--run-id", "r"]) == 0
    assert (
        json.loads((tmp_path / "out" / "runs" / "r.json").read_text())["config"]["s3_endpoint"] == "http://127.0.0.1:9"
    )
    assert_output_clean(tmp_path / "out")
    captured = capfd.readouterr()
    assert_clean(captured.out + captured.err + caplog.text, "printed")
