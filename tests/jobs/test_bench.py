"""The benchmarks' command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from adafv.worlds.drawn.dataset import rows, write_shards
from adafv.worlds.drawn.questions import QUESTION_TYPES
from jobs.bench import main
from tests.bench.tiny_shapes import NEXT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
KEYS = {"world", "model", "strategy", "keep", "question_type", "n", "accuracy", "low", "high"} | {
    "agreement", "select_ms"
}  # fmt: skip
SPEED_KEYS = {"name", "backend", "strategy", "keep", "samples_per_s", "operations", "bytes", "limit_share"} | {
    "prune_share", "padding_share", "peak_bytes"
}  # fmt: skip


def quality(tmp_path, *arguments: str) -> dict[tuple[str, float, str], dict]:
    """The entries of a run, by what they are of."""
    path = tmp_path / "quality.json"
    assert main(["quality", "--strategies", "random,adafv", "--keep", "0.1", *arguments, "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    found = {(one["strategy"], one["keep"], one["question_type"]): one for one in written}
    assert len(found) == len(written)
    return found


def test_speed_without_ray(tmp_path):
    """On a machine that has nothing but torch, transformers and what these need."""
    script = """
import sys
for name in ("ray", "pyarrow", "boto3", "botocore", "urllib3"):
    sys.modules[name] = None
from adafv.bench import ceilings, shapes
from jobs.bench import main
from tests.bench.tiny_shapes import NEXT
ceilings._SECONDS["cpu"] = 0
shapes.PRESETS["cpu-small"] = NEXT
sys.exit(main(["speed", "--samples", "2", "--rounds", "1", "--threads", "1", *sys.argv[1:]]))
"""
    rows = {"ours-0.05-again"}  # each has a process of its own
    path = tmp_path / "speed.json"
    command = [sys.executable, "-c", script, "--rows", ",".join(rows), "--json", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ours-0.05-again" in done.stdout and "cores" in done.stdout.splitlines()[-1]
    written = json.loads(path.read_text())
    assert {"preset", "machine", "ceilings", "rows"} <= set(written) and written["preset"] == "cpu-small"
    assert written["machine"]["cores"] >= 1 and written["ceilings"]["operations_per_s"] > 0
    assert {row["name"] for row in written["rows"]} == rows
    for row in written["rows"]:
        assert set(row) >= SPEED_KEYS and row["samples_per_s"] > 0
        assert row["output_tokens"] > 32, "a second look answers anew"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rows", "stock-none,fast"], "--rows names fast; there are stock-none, reference-0.05, ours-none"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
    ids=["rows", "device"],
)
def test_speed_options_that_cannot_be(arguments, complaint, capsys, monkeypatch):
    monkeypatch.setattr("adafv.bench.shapes.PRESETS", {"cpu-small": NEXT})
    assert main(["speed", "--threads", "1", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_promise_in_a_world(tmp_path, capsys):
    asked = ["--worlds", "testbed", "--scenes", "12", "--rows", "60", "--sample", "45", "--repeats", "2"]
    files = {name: tmp_path / f"promise.{name}" for name in ("json", "png")}
    asked += ["--keep", "0.25", "--min-agreement", "0.5", "--json", str(files["json"]), "--chart", str(files["png"])]
    assert main(["promise", *asked]) == 0
    [found] = json.loads(files["json"].read_text())["promise"]
    assert (found["world"], found["rows"]) == ("testbed", 60) and found["promise"]["chosen"] == 2
    assert capsys.readouterr().out.splitlines()[-2].startswith("testbed ") and files["png"].stat().st_size > 0


@pytest.mark.slow
@pytest.mark.nightly
def test_ledger(tmp_path, capsys):
    assert main(["ledger", "--ids", "20001", "--folder", str(tmp_path), "--json", str(tmp_path / "f.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("       20,001") and "cores" in printed[-1]
    written = json.loads((tmp_path / "f.json").read_text())
    (figures,) = written["ledger"]
    assert figures["ids"] == 20_001 and 0 < figures["base_bytes"] <= figures["ledger_bytes"] <= figures["peak_bytes"]
    assert written["machine"]["cores"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"], "the data is removed again"


def test_quality_on_scenes(one_core, tmp_path, capsys):
    found = quality(tmp_path, "--scenes", "3", "--seed", "7000", "--chart", str(tmp_path / "chart.png"))
    groups = {"all", "small", "several", "large", "scene"}
    shares = {"hallucinated", "recalled"}
    types = groups | set(QUESTION_TYPES) | shares
    assert {(name, keep) for name, keep, _ in found} == {("none", 1.0), ("random", 0.1), ("adafv", 0.1)}
    assert {type_ for *_, type_ in found} == types and len(found) == 3 * len(types)
    truth = list(rows(3, 7000))
    for one in found.values():
        assert set(one) >= KEYS and 0 <= one["low"] <= one["accuracy"] <= one["high"] <= 1
        type_ = one["question_type"]
        asked = [row for row in truth if row["type"] != "caption"] if type_ in groups else truth
        counted = "caption" if type_ in shares else type_
        assert one["n"] == sum(1 for row in asked if counted in ("all", row["type"], row["size"]))
    assert found["none", 1.0, "all"]["agreement"] == 1.0 and found["random", 0.1, "all"]["agreement"] < 1.0
    assert found["none", 1.0, "small"]["accuracy"] > 0.9 > found["random", 0.1, "caption"]["accuracy"]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "3 held-out scenes of testbed from 7000 on, testbed" in out and "cores" in out.splitlines()[-1]
    assert "captions: 3; F1 of what is named" in out and "10 % kept, by type of question" in out


def test_quality_on_a_data_set_of_ones_own(one_core, tmp_path, capsys):
    """The testbed's own data set, read as a user's, gives the same figures."""
    questions = [row["type"] for row in rows(2, 7000)]
    scenes = quality(tmp_path, "--scenes", "2", "--seed", "7000")
    (shard,) = write_shards(tmp_path / "data", rows(2, 7000))
    table = pq.read_table(shard).to_pylist()
    table[0]["answer"] = None
    table[1]["image"] = {"bytes": b"<html>", "path": "x.png"}
    pq.write_table(pa.Table.from_pylist(table), shard)
    capsys.readouterr()
    found = quality(tmp_path, "--input", str(tmp_path / "data"), "--type-column", "type", "--metric", "exact")
    for name, keep in (("none", 1.0), ("random", 0.1), ("adafv", 0.1)):
        assert found[name, keep, "all"]["n"] == len(questions) - 2
        for type_ in ("digit", "exists", "main"):  # whole in both: the two bad rows are of other types
            for key in ("n", "accuracy", "agreement"):
                assert found[name, keep, type_][key] == scenes[name, keep, type_][key]
    out = capsys.readouterr().out
    assert "skipped 1 rows: answer_missing" in out and "skipped 1 rows: image_format" in out


def test_quality_in_worlds(one_core, tmp_path, monkeypatch, capsys, caplog):
    """Each with its own model; one that isn't built is passed over with its reason."""
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    path = tmp_path / "quality.json"
    chosen = ["--worlds", "photo,testbed-emerged,testbed", "--strategies", "random,resize", "--keep", "0.1"]
    assert main(["quality", *chosen, "--scenes", "1", "--seed", "7000", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    kinds = {(one["world"], one["model"], one["strategy"], one["keep"]) for one in written}
    assert kinds == {
        (name, name, *row)
        for name in ("testbed", "testbed-emerged")
        for row in (("none", 1.0), ("random", 0.1), ("resize", 0.1))
    }
    of = {
        one["world"]: one["accuracy"] for one in written if (one["strategy"], one["question_type"]) == ("none", "all")
    }
    assert of["testbed"] > of["testbed-emerged"]
    out = capsys.readouterr().out
    assert out.index("scenes of testbed from 7000") < out.index("of testbed-emerged") < out.index("over 2 worlds")
    assert "world photo is skipped: the model testbed-photo isn't in" in caplog.text


def snippet(name: str, folder: Path) -> None:
    """Run the lines of docs/quality.md that write the file `name`, in `folder`."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "quality.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if f'open("{name}", "w")' in block]
    exec(re.sub(r'open\("', f'open("{folder}/', code), {})


def pictures(folder: Path, name: str) -> list[dict]:
    """Two questions on each of two scenes, whose pictures lie under `folder` as `name` says."""
    asked = [row | {"number": number} for number in range(2) for row in list(rows(1, 7000 + number))[:2]]
    for row in asked:
        path = folder / name.format(row["number"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    return asked


def test_quality_on_vqav2s_files(one_core, tmp_path):
    asked = pictures(tmp_path, "val2014/COCO_val2014_{:012d}.jpg")
    questions = [
        {"image_id": row["number"], "question": row["question"], "question_id": i} for i, row in enumerate(asked)
    ]
    annotations = [
        {
            "question_type": "what color is the", "multiple_choice_answer": row["answer"], "image_id": row["number"],
            "answers": [
                {"answer": row["answer"] if k < 2 else "purple-ish", "answer_confidence": "yes", "answer_id": k + 1}
                for k in range(10)
            ],
            "answer_type": "other", "question_id": i,
        }
        for i, row in reversed(list(enumerate(asked)))
    ]  # fmt: skip
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    snippet("vqav2.jsonl", tmp_path)
    found = quality(
        tmp_path, "--input", str(tmp_path / "vqav2.jsonl"), "--id-column", "question_id", "--answer-column", "answers",
        "--type-column", "answer_type", "--metric", "vqa",
    )  # fmt: skip
    assert found["none", 1.0, "all"]["n"] == found["none", 1.0, "other"]["n"] == 4
    assert found["none", 1.0, "all"]["accuracy"] == pytest.approx(0.6), "all right, and two of ten annotators say so"


def test_quality_on_textvqas_rows(one_core, tmp_path):
    asked = pictures(tmp_path, "train_images/{}.jpg")
    lines = [
        {
            "question": row["question"], "image": f"train_images/{row['number']}.jpg", "question_id": i,
            "answers": [row["answer"]] * 9 + ["answering does not require reading text in the image"],
        }
        for i, row in enumerate(asked)
    ]  # fmt: skip
    (tmp_path / "textvqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = quality(
        tmp_path, "--input", str(tmp_path / "textvqa.jsonl"), "--id-column", "question_id", "--answer-column",
        "answers", "--metric", "vqa", "--limit", "3",
    )  # fmt: skip
    assert found["none", 1.0, "all"]["n"] == 3 and found["none", 1.0, "all"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quality", "--strategies", "best"], "--strategies names 'best'"),
        (["quality", "--keep", "half"], "--keep is 'half'"),
        (["quality", "--scenes", "0"], "--scenes is 0"),
        (["quality", "--metric", "vqa"], "--metric is for data of your own"),
        (["quality", "--input", "x", "--scenes", "3"], "--scenes is for the testbed"),
        (["quality", "--input", "/nowhere"], "there is nothing"),
        (["quality", "--input", "x", "--metric", "bleu"], "--metric is 'bleu'"),
        (["quality", "--text-scope", "all"], "--text-scope is 'all'"),
        (["quality", "--model", "/nowhere"], "--model /nowhere can't be loaded"),
        (["quality", "--worlds", "testbed,moon"], "--worlds names 'moon'; there are testbed, "),
        (["quality", "--worlds", "all", "--model", "x"], "--model doesn't go with --worlds"),
        (["quality", "--worlds", "all", "--input", "x"], "--input doesn't go with --worlds"),
        (["pipeline", "--keep", "2"], "--keep is 2.0"),
        (["quality", "--json", "/nowhere/quality.json"], "there is no folder /nowhere"),
        (["quality", "--chart", "/tmp"], "/tmp is a folder"),
    ],
)
def test_wrong_options(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_without_a_benchmark_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "ledger" in capsys.readouterr().err
