"""`jobs/export.py` as a command."""

from __future__ import annotations

import json

import pytest

from jobs import export
from tests.reporting.outputs import label, run, write


@pytest.fixture
def output(tmp_path):
    labels = [label("a", image="/data/a.jpg", prompt="p"), label("b", image="/data/b.jpg", prompt="<image>")]
    return write(tmp_path / "out", labels, [run()])


def test_a_file(output, tmp_path, capsys):
    target = tmp_path / "train.json"
    assert export.main([output, "--format", "llava", "--image-root", "/data", "--to", str(target)]) == 0
    assert [entry["image"] for entry in json.loads(target.read_text())] == ["a.jpg"]
    said = capsys.readouterr().out
    assert "1 labels" in said and "1 labels were left out" in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing is left behind"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--format", "csv", "--to", "f"],
        ["--format", "jsonl"],
        ["--format", "jsonl", "--to", "/nowhere/f"],
        ["--format", "jsonl", "--to", "/tmp"],
        ["--format", "label-studio", "--to", "f"],
    ],
)
def test_wrong_options_exit_with_2(output, tmp_path, monkeypatch, wrong, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = export.main([output, *wrong])
    except SystemExit as error:
        status = error.code
    assert status == 2 and capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_damaged_file_exits_with_1(output, tmp_path, capsys):
    (tmp_path / "out/labels/0.parquet").write_bytes(b"PAR1 no PAR1")
    assert export.main([output, "--format", "jsonl", "--to", str(tmp_path / "f")]) == 1
    assert "0.parquet" in capsys.readouterr().err and not (tmp_path / "f").exists()


def test_from_s3(s3, tmp_path, monkeypatch, output):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{s3.new_bucket()}/labels"
    s3.upload(tmp_path / "out", uri)
    assert export.main([uri, "--format", "coco-captions", "--to", str(tmp_path / "f")]) == 0
    assert len(json.loads((tmp_path / "f").read_text())["images"]) == 2
