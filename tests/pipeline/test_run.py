"""Whole runs on a real Ray: every row ends in exactly one of the two outputs, whatever it is."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

import adafv.pipeline.run as run_module
from adafv.counting import Sizes
from adafv.engine.options import EngineOptions
from adafv.hardware import cpu_name, instance_type
from adafv.models import best_attention
from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.options import JobOptions
from adafv.pipeline.rejects import ERRORS
from adafv.pipeline.result import RunResult
from adafv.pipeline.run import Job, run
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.stream import Reading, rows_per_block
from adafv.pipeline.workers.label import WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing
from adafv.reporting.page import render
from adafv.reporting.report import make_report, summary
from tests.conftest import S3_SECRET
from tests.pipeline.inputs import NAMES, ROWS, write_all, write_images, write_jsonl, write_structs, write_uris
from tests.pipeline.pictures import BROKEN, ODD_SIZES, SOUND, jpeg, photographs
from tests.pipeline.workers.stages import worker_options

MODEL = {"max_new_tokens": 4, "keep": 0.25}


@dataclass(frozen=True)
class Outcome:
    """What stands under an output."""

    labels: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    runs: dict[str, dict[str, Any]]

    def errors(self) -> Counter[tuple[str | None, str]]:
        return Counter((row["id"], row["error"]) for row in self.rejects)

    def answers(self) -> dict[str, tuple[Any, ...]]:
        return {row["id"]: (row["prompt"], row["answer"], row["kept_indices"]) for row in self.labels}


def outcome(uri: str | Path, storage: Storage | None = None) -> Outcome:
    output = open_output(str(uri), storage or Storage())

    def rows(folder: str) -> list[dict[str, Any]]:
        files = output.parquet_files(folder)
        return [row for path in files for row in pq.read_table(path, filesystem=output.filesystem).to_pylist()]

    names = {row["run_id"] for row in rows("labels") + rows("rejects")}
    runs = {name: json.loads(output.read(f"runs/{name}.json") or b"null") for name in names}
    return Outcome(rows("labels"), rows("rejects"), runs)


def label(model: Path, output: object, *inputs: object, **options: Any) -> RunResult:
    return run(JobOptions.of(input=tuple(map(str, inputs)), output=str(output), model=str(model), **MODEL | options))


QUESTIONS: dict[str, tuple[Any, str | None]] = {
    "null": (None, "prompt_incomplete"),
    "list": ([1], "bad_row"),
    "empty": ("", "prompt_empty"),
    "blank": (" \n\t ", "prompt_empty"),
    "huge": ("w1 " * 40_000, "prompt_too_long"),
    "placeholder": ("w1 <image> w2", "prompt_placeholder"),
    "control": ("w1 \x00\x07 w2", None),
    "unknown": ("Was ist das? 这是什么", None),
    "surrogate": ("w1 \ud800", None),
}
PATHS = {
    "outside": ("../secret.jpg", "image_refused"),
    "absolute": ("/etc/hostname", "image_refused"),
    "gone": ("none.jpg", "image_not_found"),
    "web": ("http://127.0.0.1/x.jpg", "image_refused"),
    "nowhere": (None, "image_missing"),
}


@dataclass(frozen=True)
class Mixed:
    """One input with everything in it, its output after one run, and which error each id should have."""

    folder: Path
    output: Path
    result: RunResult
    expected: dict[str, str | None]
    repeated: tuple[str, ...]
    without_id: int

    def rejects(self) -> Counter[tuple[str | None, str]]:
        """Which rejects there should be."""
        wanted = Counter((id, error) for id, error in self.expected.items() if error)
        wanted.update((id, "duplicate_id") for id in self.repeated)
        return wanted + Counter({(None, "missing_id"): self.without_id})


@pytest.fixture(scope="module")
def mixed(ray_local, tiny_model, tmp_path_factory) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    expected: dict[str, str | None] = dict.fromkeys((*SOUND, *ODD_SIZES))
    expected |= {name: error for name, (_, error) in BROKEN.items()}
    for name, data in {**SOUND, **ODD_SIZES, **{name: data for name, (data, _) in BROKEN.items()}}.items():
        (folder / name).write_bytes(data)
    before = {path.name for path in folder.iterdir()}
    photographs(folder)
    expected |= {path.name: None for path in folder.iterdir() if path.name not in before}
    rows = [{"id": name, "image": name, "question": f"w{i} w3"} for i, name in enumerate(expected)]
    rows += [
        {"id": f"q-{name}", "image": "plain.jpg", "question": question} for name, (question, _) in QUESTIONS.items()
    ]
    rows += [{"id": f"p-{name}", "image": path, "question": "w1"} for name, (path, _) in PATHS.items()]
    expected |= {f"q-{name}": error for name, (_, error) in QUESTIONS.items()}
    expected |= {f"p-{name}": error for name, (_, error) in PATHS.items()}
    rows += [{"id": "plain.png", "image": "plain.jpg", "question": "w9"}, {"id": "bomb.png", "image": "plain.jpg"}]
    rows += [{"id": None, "image": "plain.jpg", "question": "w1"}, {"image": "plain.jpg", "question": "w1"}]
    write_jsonl(folder / "rows.jsonl", rows)
    output = folder.parent / "mixed-out"
    result = label(tiny_model, output, folder / "rows.jsonl", price_per_hour=2.0, batch_size=7, run_id="first")
    return Mixed(folder, output, result, expected, repeated=("plain.png", "bomb.png"), without_id=2)


def test_every_row_is_labelled_or_rejected_with_its_reason(mixed):
    found = outcome(mixed.output)
    assert found.errors() == mixed.rejects()
    assert sorted(row["id"] for row in found.labels) == sorted(id for id, error in mixed.expected.items() if not error)
    assert mixed.result.status == 0


def test_labels_hold_together(mixed):
    found = outcome(mixed.output)
    for row in found.labels:
        kept = row["kept_indices"]
        assert len(kept) == row["kept_tokens"] == max(1, int(0.25 * row["visual_tokens"] + 0.5)), row["id"]
        assert kept == sorted(set(kept)) and kept[-1] < row["visual_tokens"]
        assert sum(panel["rows"] * panel["columns"] for panel in row["grid"]) == row["visual_tokens"]
        assert row["finish_reason"] in ("stop", "length") and row["output_tokens"] <= 4 and row["mean_logprob"] <= 0
        assert row["prompt"] == row["question"] and row["run_id"] == "first" and row["strategy"] == "adafv-plus"
        assert row["cost_usd"] == pytest.approx(row["gpu_seconds"] * 2 / 3600) and row["gpu_seconds"] > 0
        assert min(row["fetch_ms"], row["preprocess_ms"], row["encode_ms"], row["decode_ms"]) > 0
        assert 1 <= row["batch_size"] <= 7
    by_id = {row["id"]: row for row in found.labels}
    assert by_id["plain.png"]["image"] == "plain.png", "the first of two rows with one id is labelled"
    assert by_id["q-surrogate"]["question"] == "w1 \ufffd" and by_id["q-control"]["question"] == "w1 \0\x07 w2"


def test_rejects_hold_together(mixed):
    for row in outcome(mixed.output).rejects:
        assert row["stage"] == ERRORS[row["error"]].stage and row["retryable"] == ERRORS[row["error"]].retryable
        assert row["message"] and row["run_id"] == "first" and row["rejected_at"] is not None
        assert row["id"] is not None or row["image"].startswith(f"{mixed.folder}/rows.jsonl#")


def test_the_run_is_on_record(mixed):
    found = outcome(mixed.output)
    record = found.runs["first"]
    rows = len(mixed.expected) + len(mixed.repeated) + mixed.without_id
    counts = record["counts"]
    assert (record["status"], record["error"]) == ("done", None)
    assert (counts["input"], counts["skipped"], counts["labelled"]) == (rows, 0, len(found.labels))
    assert counts["rejected"] == len(found.rejects) == sum(counts["rejected_by_error"].values())
    assert record["totals"]["kept_tokens"] == sum(row["kept_tokens"] for row in found.labels)
    assert record["totals"]["gpu_seconds"] == pytest.approx(sum(row["gpu_seconds"] for row in found.labels), abs=1e-5)
    assert record["config"]["keep"] == 0.25 and record["versions"]["ray"] == ray.__version__
    [device] = record["hardware"]["devices"]
    machine = {
        "device": cpu_name(),
        "instance": instance_type(),
        "attention": best_attention(torch.device("cpu"), torch.float32),
    }
    assert device == {**machine, "workers": device["workers"], "price_per_hour": 2.0}
    assert Sizes.from_json(record["model"]).layers == 2
    start = record["start"]
    assert start["workers"] == device["workers"] and start["workers_gone"] == 0 and start["load_seconds"]["median"] > 0
    assert (
        0 < record["throughput"]["first_label_seconds"] <= record["throughput"]["seconds"]
        and "first label after" in mixed.result.run.table()
    )
    cost = record["cost"]
    assert cost["usd"] == pytest.approx(cost["worker_seconds"] * 2 / 3600, abs=1e-5)
    assert 0 < cost["usd_attributed"] < cost["usd"] and record["throughput"]["samples_per_second"] > 0
    table = mixed.result.run.table()
    assert f"{rows}" in table and "image_corrupt" in table and str(mixed.output) in table


def test_the_same_command_again_does_nothing(mixed, tiny_model):
    before = outcome(mixed.output)
    again = label(tiny_model, mixed.output, mixed.folder / "rows.jsonl", run_id="second")
    after = outcome(mixed.output)
    assert again.status == 0 and again.run.tally.labelled == 0
    assert after.labels == before.labels
    assert len(after.rejects) == len(before.rejects) and again.run.skipped == again.run.input


def test_rejects_that_a_kill_lost_are_made_again(mixed, tiny_model, tmp_path):
    """Also those of the later rows of a repeated id, whose first row has its label."""
    shutil.copytree(mixed.output, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "rejects")
    again = label(tiny_model, tmp_path / "out", mixed.folder / "rows.jsonl", run_id="second")
    assert outcome(tmp_path / "out").errors() == mixed.rejects() and again.run.tally.labelled == 0


def test_grown_input_and_retries(ray_local, tiny_model, tmp_path):
    """Only what is new is labelled; of the rejects only what may have passed, or all when asked."""
    write_images(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:2], ROWS[2] | {"image": "late.jpg"}])
    (tmp_path / "more.parquet").write_bytes(b"not yet a Parquet file")
    inputs, out = (tmp_path / "rows.jsonl", tmp_path / "more.parquet"), tmp_path / "out"
    label(tiny_model, out, *inputs, run_id="one")
    first = outcome(out)
    assert set(first.answers()) == {"r0", "r1"}
    assert Counter(row["error"] for row in first.rejects) == {"image_not_found": 1, "source_unreadable": 1}

    (tmp_path / "late.jpg").write_bytes(jpeg())
    write_jsonl(inputs[0], [*ROWS[:2], ROWS[2] | {"image": "late.jpg"}, ROWS[3] | {"id": "new"}])
    write_uris(inputs[1], [ROWS[3]])
    second = label(tiny_model, out, *inputs, run_id="two")
    assert (second.run.skipped, second.run.tally.labelled) == (3, 2)
    assert set(outcome(out).answers()) == {"r0", "r1", "r3", "new"}

    third = label(tiny_model, out, *inputs, run_id="two", retry_rejects=True)
    assert (third.run.skipped, third.run.tally.labelled) == (4, 1)
    final = outcome(out)
    assert Counter(row["id"] for row in final.labels) == Counter(["r0", "r1", "r2", "r3", "new"])
    assert [run["counts"]["labelled"] for run in final.runs["two"]["earlier"]] == [2]
    assert [row for row in final.labels if row["run_id"] == "one"] == first.labels


def test_a_source_that_fails_only_while_the_run_is_planned(ray_local, tiny_model, tmp_path, monkeypatch):
    """What is read by luck a moment later is neither labelled twice nor left out without a word."""
    write_images(tmp_path)
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(write_jsonl(tmp_path / "rows.jsonl").read_bytes())
    begin = Job._begin

    def put(data: bytes) -> None:
        path.write_bytes(data)
        os.utime(path, (0, 0))

    def heal_and_begin(job: Job) -> None:
        put(whole)
        begin(job)

    monkeypatch.setattr(Job, "_begin", heal_and_begin)
    for times, before in ((1, []), (2, ["r0", "r1", "r2", "r3"])):  # in a new output, and in one that has labels
        put(whole[:20] + bytes(len(whole) - 20))
        label(tiny_model, tmp_path / "out", path)
        found = outcome(tmp_path / "out")
        assert Counter(row["error"] for row in found.rejects) == {"source_unreadable": times}
        assert [row["id"] for row in found.labels] == before
        label(tiny_model, tmp_path / "out", path)
        assert [row["id"] for row in outcome(tmp_path / "out").labels] == ["r0", "r1", "r2", "r3"]


def test_s3_end_to_end(ray_local, s3, tiny_model, mixed, tmp_path, monkeypatch):
    """Input, model and output on S3, with keys that only the driver has; the labels are the local ones."""
    folder = tmp_path / "in"
    shutil.copytree(mixed.folder, folder)
    for name, path in write_all(tmp_path / "all").items():
        shutil.copy(path, folder / f"{name}-{path.name}")
    (folder / "uris-uris.parquet").unlink()
    bucket = s3.new_bucket()
    s3.upload(folder, f"s3://{bucket}/in")
    s3.upload(tiny_model, f"s3://{bucket}/model")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path / "cache"))
    base = f"s3://{bucket}/in"
    result = label(
        f"s3://{bucket}/model", f"s3://{bucket}/out",
        f"{base}/rows.jsonl", f"{base}/tar-rows.tar", f"{base}/bytes-bytes.parquet",
        batch_size=16,
    )  # fmt: skip
    storage = Storage.from_environment()
    found, local = outcome(f"s3://{bucket}/out", storage), outcome(mixed.output)
    assert result.status == 0
    answers = found.answers()
    assert {id: answer for id, answer in answers.items() if id in local.answers()} == local.answers()
    assert set(answers) - set(local.answers()) == {row["id"] for row in ROWS}
    # The Parquet file repeats the tar's ids: the tar is named first, so its rows are the labelled ones.
    assert found.errors() == mixed.rejects() + Counter((row["id"], "duplicate_id") for row in ROWS)
    assert all("#" in row["image"] for row in found.labels if row["id"] in {r["id"] for r in ROWS})
    for path in Path(ray._private.worker._global_node.get_session_dir_path(), "logs").rglob("*"):
        if path.is_file():
            assert S3_SECRET.encode() not in path.read_bytes(), path
    for item in s3.client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]:
        data = s3.client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        assert S3_SECRET.encode() not in data, item["Key"]


def test_adjacent_questions_share_an_image(ray_local, tiny_model, tmp_path):
    """Two images with many questions each: whatever the batches, and with more workers than CPUs, the answers are the
    same."""
    write_images(tmp_path)
    rows = [{"id": f"{i}", "image": f"plain.{'jpg' if i < 20 else 'png'}", "question": f"w{i}"} for i in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    label(tiny_model, tmp_path / "a", tmp_path / "rows.jsonl", batch_size=16)
    label(tiny_model, tmp_path / "b", tmp_path / "rows.jsonl", batch_size=3, workers="2:3", limit=25)
    a, b = outcome(tmp_path / "a").answers(), outcome(tmp_path / "b").answers()
    assert len(a) == 40 and set(b) == {f"{i}" for i in range(25)}
    assert {id: a[id] for id in b} == b


def test_a_sample_is_of_rows_that_stand_together(ray_local, tiny_model, tmp_path):
    write_images(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"id": f"{i}", "image": "plain.png", "question": "w1"} for i in range(40)])
    label(tiny_model, tmp_path / "out", tmp_path / "rows.jsonl", sample=8, sample_adjacent=4)
    drawn = sorted(map(int, outcome(tmp_path / "out").answers()))
    assert len(drawn) == 8
    assert all(drawn[start] % 4 == 0 and drawn[start + 3] == drawn[start] + 3 for start in (0, 4)), drawn


def test_a_model_without_weights_fails_the_run(ray_local, tiny_model, tmp_path):
    """The processor loads, so the job starts; the failure is on record, and the same command then succeeds."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").write_bytes(b"no weights")
    path = write_structs(tmp_path / "rows.parquet")
    with pytest.raises(RunError, match=r"^.*SafetensorError: [^\n]*$"):
        label(model, out, path, run_id="bad")
    record = json.loads((out / "runs" / "bad.json").read_text())
    assert record["status"] == "failed" and record["error"]
    assert outcome(out).labels == []
    shutil.copy(tiny_model / "model.safetensors", model / "model.safetensors")
    label(model, out, path, run_id="bad")
    found = outcome(out)
    assert len(found.labels) == 4 and found.runs["bad"]["status"] == "done"
    assert [earlier["status"] for earlier in found.runs["bad"]["earlier"]] == ["failed"]


def test_an_input_without_rows_is_a_usage_error(ray_local, tiny_model, tmp_path):
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(UsageError, match="there are no rows"):
        label(tiny_model, tmp_path / "out", tmp_path / "x.jsonl")
    assert not (tmp_path / "out" / "runs").exists()


def test_kept_indices_are_those_of_the_engine(mixed, tiny_model):
    """What the job writes is what the engine says of the same picture and prompt."""
    from PIL import Image

    from adafv.engine import Engine, EngineOptions, Preparer

    options = EngineOptions(**MODEL, device="cpu", dtype="float32")
    row = next(row for row in outcome(mixed.output).labels if row["id"] == "chelsea.png")
    with Image.open(mixed.folder / "chelsea.png") as image:
        sample = Preparer.load(str(tiny_model), options).prepare("chelsea.png", image.convert("RGB"), row["prompt"])
    [expected] = Engine.load(str(tiny_model), options).label([sample])
    assert np.array_equal(expected.kept_indices, row["kept_indices"]) and expected.answer == row["answer"]
    assert expected.mean_logprob == pytest.approx(row["mean_logprob"], rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "workers", "batch", "together"),
    [(100, 1, 16, 32), (4000, 1, 16, 112), (10_000_000, 8, 32, 128), (10_000_000, 1000, 50, 100), (10**6, 1, 300, 32)],
)
def test_many_rows_travel_in_larger_blocks(rows, workers, batch, together):
    assert rows_per_block(rows, workers, batch) == together


def test_stages_do_without_torch(tmp_path):
    """What Ray's own processes hold of a job; torch and transformers are for their children."""
    options, storage = JobOptions(input=("i",), output="o"), Storage()
    engine = options.engine_on("cpu")
    stages = [
        Reading(storage, Columns.of(options)),
        Fetcher(storage, 2**20),
        Preparation.of(options, model="testbed", engine=engine, storage=storage, handler=Preparing),
        worker_options("testbed", engine),
    ]
    (tmp_path / "stages").write_bytes(pickle.dumps(stages))
    code = """if True:
        import pickle, sys
        import adafv.pipeline.outputs.sink
        *_, options = pickle.load(open(sys.argv[1], 'rb'))
        from adafv.pipeline.workers.label import LabelWorker
        LabelWorker(options)
        assert not {'torch', 'transformers'} & set(sys.modules), 'imported'
        """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "stages")], check=True)


class Failing:
    """A worker's handler that can't be made."""

    def __init__(self, error: Exception, options: WorkerOptions) -> None:
        raise error


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("its probe failed"), UsageError, r"^--model .* can't be loaded: its probe failed$"),
        (ConnectionRefusedError(111, "refused"), RunError, "ConnectionRefusedError"),
    ],
)
def test_a_model_that_is_refused_once_its_weights_are_known(ray_local, tiny_model, tmp_path, error, raised, message):
    photos = str(write_images(tmp_path / "photos"))
    options = JobOptions(input=[photos], output=str(tmp_path / "out"), model=str(tiny_model), prompt="w1")
    with pytest.raises(raised, match=message):
        run(options, partial(Failing, error))


def test_an_output_inside_the_input(ray_local, tiny_model, tmp_path):
    """Photos that were added are labelled, and what else lies there is counted alike in the run's record, in that of
    the next one, and in the report."""
    photos = write_images(tmp_path / "photos")
    (photos / "notes.md").write_text("no image")
    (photos / ".hidden.jpg").write_text("hidden")
    given = {"prompt": "w1"}
    label(tiny_model, photos / "out", photos, run_id="one", **given)
    (photos / "more.jpg").write_bytes(jpeg())
    again = label(tiny_model, photos / "out", photos, run_id="two", **given)
    found = outcome(photos / "out")
    assert again.status == 0 and sorted(row["id"] for row in found.labels) == sorted([*NAMES, "more.jpg"])
    counts = [{one["why"]: one["count"] for one in found.runs[name]["passed_over"]} for name in ("one", "two")]
    own = "the job's own output is no input"
    assert counts[0].keys() | {own} == counts[1].keys() and counts[1].pop(own) >= 3
    assert counts[0] == counts[1] == dict.fromkeys(counts[0], 1) and len(counts[0]) == 2
    report = make_report(str(photos / "out"))
    assert [asdict(one) for one in report.passed_over] == found.runs["two"]["passed_over"]
    assert "the format is none that is known" in render(report)
    assert "passed over" in summary(report) and "passed over" in again.run.table()


def test_a_run_of_nothing_but_rejects(ray_local, tiny_model, tmp_path):
    """It ends with status 3 and says what helps, and that does."""
    write_images(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for name in NAMES:
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    first = label(tiny_model, tmp_path / "out", tmp_path / "snapshot", prompt="w1")
    [line] = first.run.tally.reasons.lines()
    assert first.status == 3 and line.startswith("4 image_refused, such as ")
    advice = line.partition("add --allow-local ")[2]
    again = label(
        tiny_model, tmp_path / "out", tmp_path / "snapshot", prompt="w1", allow_local=advice, retry_rejects=True
    )
    assert again.status == 0 and again.run.tally.labelled == 4


@pytest.mark.parametrize(
    ("dtype", "device", "alone", "fast", "told"),
    [
        ("auto", "cpu", True, True, True),
        ("bfloat16", "cpu", True, True, False),
        ("auto", "cuda", True, True, False),
        ("auto", "cpu", False, True, False),  # other nodes' processors aren't known here
        ("auto", "cpu", True, False, False),
    ],
)
def test_a_run_on_a_cpu_says_that_bfloat16_is_faster(monkeypatch, caplog, dtype, device, alone, fast, told):
    monkeypatch.setattr(run_module, "is_ours_alone", lambda: alone)
    monkeypatch.setattr(run_module, "has_amx", lambda: fast)
    options = SimpleNamespace(engine=EngineOptions(device=device, dtype=dtype))
    resources = SimpleNamespace(device=device, workers=(1, 1), batch_size=16)
    with caplog.at_level("INFO", "adafv"):
        run_module._log_resources(SimpleNamespace(options=options, resources=resources))
    assert ("--dtype bfloat16 is faster on this processor" in caplog.text) is told
