"""`jobs/report.py` as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError
from PIL import Image

from jobs import report
from tests.reporting.outputs import label, run, write


@pytest.fixture
def output(tmp_path):
    return write(tmp_path / "out", [label("a"), label("b")], [run(input=2, worker_seconds=7.2, seconds=4.0)])


def test_summary_and_json(output, tmp_path, capsys):
    assert report.main([output, "--price-per-hour", "10", "--json", str(tmp_path / "r.json")]) == 0
    figures = json.loads((tmp_path / "r.json").read_text())
    wanted = {
        "input", "labelled", "rejected", "superseded", "duplicates", "samples_per_s", "cost_attributed_usd",
        "cost_true_usd", "cost_per_1000_usd",
    }  # fmt: skip
    assert wanted <= figures.keys()
    assert figures["cost_true_usd"] == pytest.approx(0.02) and "0.0200" in capsys.readouterr().out


def test_comparison(output, tmp_path, capsys):
    other = write(tmp_path / "other", [label("a"), label("b", answer="blue")], [run()])
    assert report.main([output, "--compare", other, "--json", str(tmp_path / "r.json")]) == 0
    compared = json.loads((tmp_path / "r.json").read_text())["compared"]
    assert (compared["both"], compared["changed"], compared["agreement"]) == (2, 1, 0.5)
    assert compared["examples"] == [{"id": "b", "question": "what?", "answer": "blue"}]
    assert "answers changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [["--price-per-hour", "-1"], ["--price-per-hour", "nan"], ["--json", "/nowhere/r.json"], ["--prices", "/no"]],
)
def test_wrong_options_exit_with_2(output, wrong, capsys):
    try:
        status = report.main([output, *wrong])
    except SystemExit as error:
        status = error.code
    assert status == 2 and capsys.readouterr().err


def test_no_output_exits_with_2(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "is no output" in capsys.readouterr().err


def test_a_full_disk_exits_with_1(output, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert report.main([output, "--json", str(tmp_path / "f")]) == 1
    assert "report.py: [Errno 28] No space left" in capsys.readouterr().err


def test_the_page_has_images_unless_they_are_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "in" / "a.jpg")
    config = {"input": [str(tmp_path / "in")]}
    output = write(tmp_path / "out", [label("a"), label("\u202e<b>")], [run(input=2, config=config)])
    page = tmp_path / "r.html"
    for options, images in ([], 1), (["--no-images"], 0), (["--input", str(tmp_path / "in")], 1):
        assert report.main([output, "--html", str(page), *options]) == 0
        text = page.read_text(encoding="utf-8")
        assert text.count("data:image/jpeg") == images and "\u202e&lt;b&gt;" in text


def test_images_of_an_input_that_was_moved(tmp_path):
    (tmp_path / "now").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "now" / "a.jpg")
    config = {"input": [str(tmp_path / "then")], "image_root": str(tmp_path / "then")}
    output = write(tmp_path / "out", [label("a")], [run(input=1, config=config)])
    page, now = tmp_path / "r.html", str(tmp_path / "now")
    assert report.main([output, "--html", str(page)]) == 0
    assert "there is nothing" in page.read_text()
    assert report.main([output, "--html", str(page), "--input", now, "--image-root", now]) == 0
    assert "data:image/jpeg" in page.read_text()


def test_neither_torch_nor_ray_is_needed(output, tmp_path):
    """Also for the page, a comparison and an export: who reads an output may have no more than a small machine."""
    arguments = [output, "--html", f"{tmp_path}/r.html", "--json", f"{tmp_path}/r.json", "--compare", output]
    code = f"""
import sys
from jobs import export, report
assert report.main({arguments!r}) == 0
assert export.main([{output!r}, "--format", "jsonl", "--to", "{tmp_path}/l.jsonl"]) == 0
assert not {{"torch", "ray", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_store_that_refuses_to_read_exits_with_1(output, tmp_path, monkeypatch, capsys):
    """Listing may be allowed all the same."""
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")
    monkeypatch.setattr("adafv.reporting.report.read_figures", Mock(side_effect=denied))
    assert report.main([output]) == 1
    assert "report.py: An error occurred (AccessDenied)" in capsys.readouterr().err
