"""`jobs/export.py` as a command."""

from __future__ import annotations

import json
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

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
    ("wrong", "said"),
    [
        (["--format", "csv", "--to", "f"], "invalid choice: 'csv'"),
        (["--format", "jsonl"], "required: --to"),
        (["--format", "jsonl", "--to", "/nowhere/f"], "there is no folder /nowhere\n"),
        (["--format", "jsonl", "--to", "/tmp"], "/tmp is a folder; name a file in it"),
        (["--format", "label-studio", "--to", "f"], "give --image-root"),
        (["--format", "kohya", "--to", "f", "--prefix", "sks "], "--prefix does nothing with --format kohya"),
        (["--format", "jsonl", "--to", "f", "--boxes", "thousandths"], "--boxes does nothing with --format jsonl"),
        (["--format", "hub", "--to", "a/b", "--image-root", "/data"], "--image-root does nothing with --format hub"),
        (["--format", "hub", "--to", "a/b", "--price-per-hour", "nan"], "nan is no price"),
        (["--format", "webdataset", "--to", "f", "--shard-bytes", "0"], "0 is less than 1"),
    ],
)
def test_wrong_options_exit_with_2(output, tmp_path, monkeypatch, wrong, said, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = export.main([output, *wrong])
    except SystemExit as error:
        status = error.code
    assert status == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_file_that_cannot_be_written_exits_with_1(output, capsys):
    assert export.main([output, "--format", "jsonl", "--to", "/proc/f"]) == 1
    assert "/proc/f can't be written: No such file" in capsys.readouterr().err


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


def test_a_store_that_refuses_to_read_exits_with_1(output, tmp_path, monkeypatch, capsys):
    """Listing may be allowed all the same."""
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")
    monkeypatch.setattr("adafv.exporting.formats.read_labels", Mock(side_effect=denied))
    assert export.main([output, "--format", "jsonl", "--to", str(tmp_path / "f")]) == 1
    assert "export.py: An error occurred (AccessDenied)" in capsys.readouterr().err
