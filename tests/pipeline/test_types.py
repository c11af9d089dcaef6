"""Whole runs on inputs as other tools write them, from the file to the export and the report."""

from __future__ import annotations

import decimal
import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from adafv.exporting.export import export
from adafv.pipeline import setup
from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.storage import Storage
from adafv.reporting.gallery import make_gallery
from adafv.reporting.pictures import Access
from adafv.reporting.report import make_report
from tests.pipeline.pictures import SOUND, encoded, picture
from tests.pipeline.test_run import label, outcome


def write(path: Path, **columns) -> Path:
    count = len(columns["id"])
    pq.write_table(pa.table({"image": ["a.png"] * count, "question": ["w1"] * count} | columns), path)
    return path


def tensors(arrays: np.ndarray) -> pa.Array:
    """As Ray Data itself writes images."""
    from ray.data.extensions import ArrowTensorArray

    return ArrowTensorArray.from_numpy(arrays)


@pytest.fixture(scope="module")
def labelled(ray_local, tiny_model, tmp_path_factory):
    """The output of one run over all of them, and its folder."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "a.png").write_bytes(SOUND["plain.png"])
    pixels = np.stack([np.asarray(picture())] * 3)
    data = [np.frombuffer(SOUND[name], np.uint8) for name in ("plain.png", "plain.jpg")]
    ids = {
        "decimal": pa.array([decimal.Decimal(i) for i in (1, 2)], pa.decimal128(38, 0)),
        "float": pa.array([3.0, 4.0]),
        "uuid": pa.array([uuid.UUID(int=i).bytes for i in (5, 6)], pa.uuid()),
    }
    inputs = [
        write(folder / "tensors.parquet", id=["t0", "t1", "t2"], image=tensors(pixels)),
        write(folder / "lists.parquet", id=["l0", "l1"], image=pa.array(data, pa.list_(pa.uint8()))),
        *(write(folder / f"{name}.parquet", id=column) for name, column in ids.items()),
    ]
    missing = [{"id": f"n{i}", "image": "a.png", "question": q} for i, q in enumerate(("w1", float("nan")))]
    (folder / "nan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in missing))
    for part, colour in (("set-a", "red"), ("set-b", "blue")):
        (folder / part / "images").mkdir(parents=True)
        for i in range(2):
            data_ = encoded(Image.new("RGB", (40 + i, 40), colour), "PNG")
            (folder / part / "images" / f"{i}.png").write_bytes(data_)
        rows = [{"id": f"{part}-{i}", "image": f"images/{i}.png", "question": "w1"} for i in range(2)]
        (folder / part / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs.append(folder / part / "rows.jsonl")
    inputs.append(folder / "nan.jsonl")
    label(tiny_model, folder / "out", *inputs)
    return folder, inputs


@pytest.mark.slow
def test_each_row_is_labelled_or_has_its_reject(labelled, tiny_model):
    folder, inputs = labelled
    found = outcome(folder / "out")
    uuids = [str(uuid.UUID(int=i)) for i in (5, 6)]
    ids = ["t0", "t1", "t2", "l0", "l1", "1", "2", "3", "4", *uuids, "n0"]
    assert sorted(row["id"] for row in found.labels) == sorted(
        [*ids, *(f"set-{part}-{i}" for part in "ab" for i in range(2))]
    )
    assert found.errors() == {("n1", "prompt_incomplete"): 1}
    assert label(tiny_model, folder / "out", *inputs).run.tally.rows == 0, "a second run has nothing to do"


@pytest.mark.slow
def test_a_label_says_which_picture_it_is_of(labelled):
    folder, _ = labelled
    rows = {row["id"]: row for row in outcome(folder / "out").labels}
    for part in ("set-a", "set-b"):
        row = rows[f"{part}-1"]
        assert row["image"] == "images/1.png" and row["image_uri"] == f"{folder}/{part}/images/1.png"
        assert [image["uri"] for image in row["images"]] == [row["image_uri"]]
    assert rows["t1"]["image_uri"] == f"{folder}/tensors.parquet#1"
    assert rows["t0"]["images"][0]["key"] == rows["t1"]["images"][0]["key"], "their pixels are the same"
    [reject] = outcome(folder / "out").rejects
    assert reject["image_uri"] == f"{folder}/a.png"


@pytest.mark.slow
def test_exports_keep_pictures_of_one_name_apart(labelled, tmp_path):
    folder, _ = labelled
    export(folder / "out", "coco-captions", tmp_path / "coco.json")
    coco = json.loads((tmp_path / "coco.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    assert {f"{folder}/set-{part}/images/{i}.png" for part in "ab" for i in range(2)} < set(names)
    assert names.count("a.png") == 1, "one file that several rows name"
    export(folder / "out", "llava", tmp_path / "llava.json", [str(folder)])
    shown = {entry["id"]: entry["image"] for entry in json.loads((tmp_path / "llava.json").read_text())}
    assert shown["set-a-0"] == "set-a/images/0.png" and shown["set-b-0"] == "set-b/images/0.png"
    export(folder / "out", "jsonl", tmp_path / "lines.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert len({line["image_uri"] for line in lines if line["id"].startswith("set-")}) == 4


@pytest.mark.slow
def test_a_report_made_elsewhere_finds_the_pictures(ray_local, tiny_model, tmp_path, monkeypatch):
    """The job was given paths that are relative to the folder where it was started."""
    (tmp_path / "there" / "photos").mkdir(parents=True)
    (tmp_path / "there" / "photos" / "a.png").write_bytes(SOUND["plain.png"])
    monkeypatch.chdir(tmp_path / "there")
    label(tiny_model, "out", "photos", prompt="w1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    [card] = make_gallery(make_report(str(tmp_path / "there" / "out")), Access(Storage()))
    assert not card.problem


def test_what_cannot_be_written_or_loaded_is_said_before_ray_starts(tmp_path, monkeypatch):
    def no_session():
        raise AssertionError("Ray is started")

    monkeypatch.setattr(setup, "ray_session", no_session)
    (tmp_path / "a.png").write_bytes(SOUND["plain.png"])
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "out", "/proc/out"):
        with pytest.raises(UsageError, match=r"--output .* can't be written"):
            label("testbed", output, tmp_path / "a.png", prompt="w1")
    for model, said in (
        ("./nomodel", "there is no folder at"),
        (str(tmp_path / "file"), "there is a file, and a folder"),
    ):
        with pytest.raises(UsageError, match=f"--model {model} can't be loaded: {said}"):
            label(model, tmp_path / "out", tmp_path / "a.png", prompt="w1")
    with pytest.raises(UsageError, match="--prompt is ' '; it must be what to ask"):
        label("testbed", tmp_path / "out", tmp_path / "a.png", prompt=" ")
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match="Ray is started"):
        label("testbed", tmp_path / "out", tmp_path / "a.png", prompt="w1")
