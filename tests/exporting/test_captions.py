"""Captions for trainers: read back by datasets, as kohya's sd-scripts read them, and by a job's own input."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
from datasets import load_dataset

from adafv.pipeline.sources import discovery
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import row_of
from adafv.pipeline.store.storage import Storage
from jobs.export import main
from tests.pipeline.pictures import SOUND
from tests.reporting.outputs import label, run, write

NAMES = ("1.jpg", "sub/2.jpg", "my.3#1.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SOUND["plain.jpg"])
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path: Path, photos: Path) -> str:
    """Two labels of images as a folder has them, one by its whole path; and others that no file can be written for."""

    def of(id: str, image: str, uri: str, **values: object) -> dict:
        shown = [{"image": image, "uri": uri, "panels": 1, "visual_tokens": 1, "kept_tokens": 1}]
        return label(id, image=image, image_uri=uri, images=shown, prompt="p") | values

    labels = [
        of("a", NAMES[0], str(photos / NAMES[0]), answer=" a cat, \u2028asleep\n"),
        of("b", NAMES[1], str(photos / NAMES[1]), answer="a dog"),
        of("c", str(photos / NAMES[2]), str(photos / NAMES[2]), answer="a hen"),
        of("a/2", NAMES[0], str(photos / NAMES[0]), answer="another of the first"),
        of("up", "../../up.jpg", str(photos.parent / "up.jpg")),
        of("out", "/elsewhere/x.jpg", "/elsewhere/x.jpg"),
        of("far", "s3://bucket/x.jpg", "s3://bucket/x.jpg"),
        *(of(held, held, str(photos / held)) for held in ("part.parquet#1", "0.tar#a.jpg", "a#0.tar#b#1.jpg")),
        of("embedded", "1.png", str(photos / "part.parquet#2")),
        label("none", image="x", images=[], prompt="p"),
    ]
    return write(tmp_path / "out", labels, [run()])


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.txt")}


WRITTEN = {"1.txt": "a cat, \u2028asleep", "sub/2.txt": "a dog", "my.3#1.txt": "a hen"}


@pytest.mark.parametrize("mirror", [False, True])
def test_texts_beside_the_images_or_in_a_folder_laid_out_alike(output, photos, tmp_path, mirror, capsys):
    folder = tmp_path / "texts" if mirror else photos
    arguments = [output, "--format", "txt", "--to", str(folder)]
    assert main([*arguments, "--image-root", str(photos)] if mirror else arguments) == 0
    assert texts(folder) == WRITTEN and len(list(folder.rglob("*.*"))) == 3 * (2 - mirror)
    said = capsys.readouterr().out
    assert "3 labels" in said and "9 labels were left out: they are of no image" in said


def two_inputs(tmp_path: Path, first: str, second: str) -> str:
    """The output of a job with two folders as its input, both with a 1.jpg; 2.jpg has a label in the first only."""

    def of(folder: str, name: str) -> dict:
        uri = f"{folder}/{name}"
        shown = [{"image": name, "uri": uri, "panels": 1, "visual_tokens": 1, "kept_tokens": 1}]
        return label(uri, image=name, image_uri=uri, images=shown, answer=f"of {uri}", prompt="p")

    return write(tmp_path / "both", [of(first, "1.jpg"), of(first, "2.jpg"), of(second, "1.jpg")], [run()])


@pytest.mark.parametrize("kind", ["txt", "kohya", "label-studio", "coco-captions"])
def test_an_image_of_another_input_gives_no_caption(photos, tmp_path, kind, capsys):
    """Its name is that of an image under the root, or may be that of one without a label."""
    output = two_inputs(tmp_path, str(tmp_path / "other"), str(photos))
    target = photos if kind == "txt" else tmp_path / "x.json"
    roots = [] if kind == "txt" else ["--image-root", str(photos)]
    status = main([output, "--format", kind, "--to", str(target), *roots])
    if kind == "txt":
        assert texts(photos) == {"1.txt": f"of {photos}/1.jpg"} and "2 labels were left out" in capsys.readouterr().out
    elif kind == "kohya":
        assert json.loads(target.read_text()) == {"1.jpg": {"caption": f"of {photos}/1.jpg"}}
    elif kind == "label-studio":
        assert status == 2 and f"{tmp_path}/other/1.jpg" not in capsys.readouterr().out and not target.exists()
    else:
        names = [image["file_name"] for image in json.loads(target.read_text())["images"]]
        assert names == [f"{tmp_path}/other/1.jpg", f"{tmp_path}/other/2.jpg", "1.jpg"]


def test_images_that_were_copied_are_found_by_name(photos, tmp_path):
    """As after a job on a bucket; of names that two images have nobody knows which was copied."""
    output = two_inputs(tmp_path, "s3://bucket/a", "s3://bucket/b")
    assert main([output, "--format", "txt", "--to", str(photos)]) == 0
    assert texts(photos) == {"2.txt": "of s3://bucket/a/2.jpg"}


def test_a_job_reads_them_again(output, photos):
    assert main([output, "--format", "txt", "--to", str(photos)]) == 0
    columns = Columns(id="id", image="image", question="question", prompt="{txt}", prompt_columns=("txt",))
    (unit,) = discovery.open_source(str(photos), Storage(), columns).units
    rows = [row_of(record, columns) for record in read_unit(unit, Storage(), columns)]
    assert {row.id: row.prompt for row in rows} == dict(zip(NAMES, WRITTEN.values(), strict=True))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "mine\n"),
        (["--existing", "skip", "--prefix", "x"], "mine\n"),
        (["--existing", "append"], "mine a dog"),
        (["--existing", "append", "--prefix", ", ", "--suffix", "."], "mine, a dog."),
        (["--existing", "prepend"], "a dog mine"),
        (["--existing", "prepend", "--suffix", ", "], "a dog, mine"),
        (["--existing", "replace", "--prefix", "photo of "], "photo of a dog"),
    ],
)
def test_texts_that_are_there(output, photos, options, found, capsys):
    """What stays as it was is counted. An empty one is none."""
    (photos / "sub/2.txt").write_text("mine\n")
    (photos / "my.3#1.txt").write_text("")
    assert main([output, "--format", "txt", "--to", str(photos), *options]) == 0
    skipped = "mine\n" in found
    assert texts(photos)["sub/2.txt"] == found and ("1 have a text already" in capsys.readouterr().out) == skipped
    assert "a hen" in texts(photos)["my.3#1.txt"]


@pytest.mark.parametrize(
    "options",
    [["append"], ["append", "--prefix", ", ", "--suffix", "."], ["prepend"], ["prepend", "--suffix", ", "]],
    ids=" ".join,
)
def test_the_same_export_again_adds_nothing_twice(output, photos, options):
    """As after one that ended halfway, at a text that isn't UTF-8 or at a full disk."""
    (photos / "sub/2.txt").write_text("dogma\n")
    (photos / "my.3#1.txt").write_text("")
    arguments = [output, "--format", "txt", "--to", str(photos), "--existing", *options]
    assert main(arguments) == 0
    before = texts(photos)
    assert main(arguments) == 0 and texts(photos) == before and before["sub/2.txt"].count("a dog") == 1


@pytest.mark.parametrize("existing", ["skip", "replace", "append"])
def test_a_text_that_is_not_utf8(output, photos, existing, capsys):
    """It can be kept or replaced, but nothing can be added to it."""
    (photos / "sub/2.txt").write_bytes("chat à la mode".encode("latin-1"))
    status = main([output, "--format", "txt", "--to", str(photos), "--existing", existing])
    assert status == (1 if existing == "append" else 0)
    assert ("sub/2.txt isn't UTF-8" in capsys.readouterr().err) == (existing == "append")
    assert ("à".encode("latin-1") in (photos / "sub/2.txt").read_bytes()) == (existing != "replace")


def test_nothing_is_written_through_a_link_or_to_a_file(output, photos, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/sub").symlink_to(tmp_path)
    roots = ["--image-root", str(photos)]
    assert main([output, "--format", "txt", "--to", str(tmp_path / "texts"), *roots]) == 1
    assert "leads out of" in capsys.readouterr().err and not (tmp_path / "2.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main([output, "--format", "txt", "--to", str(tmp_path / "file")])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder_is_what_datasets_loads(output, photos, tmp_path, kind):
    target = f"{photos}/metadata.{kind}"
    assert main([output, "--format", "imagefolder", "--image-root", str(photos), "--to", target]) == 0
    loaded = load_dataset("imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["id"]: row["text"].strip() for row in loaded} == dict(zip("abc", WRITTEN.values(), strict=True))
    assert loaded[0]["image"].size
    columns = Columns(id="id", image="file_name", question="question", prompt="{text}", prompt_columns=("text",))
    (unit,) = discovery.open_source(target, Storage(), columns).units
    rows = [row_of(record, columns) for record in read_unit(unit, Storage(), columns)]
    assert {row.image_uri: row.prompt.strip() for row in rows} == {
        str(photos / name): text for name, text in zip(NAMES, WRITTEN.values(), strict=True)
    }, "a job reads it again"


def test_a_carriage_return_ends_no_line(photos, tmp_path):
    shown = [{"image": "1.jpg", "uri": str(photos / "1.jpg"), "panels": 1, "visual_tokens": 1, "kept_tokens": 1}]
    one = label("a", image="1.jpg", image_uri=str(photos / "1.jpg"), images=shown, prompt="p\rq", answer='a\r"cat"\r\n')
    output = write(tmp_path / "cr", [one], [run()])
    target = photos / "metadata.csv"
    assert main([output, "--format", "imagefolder", "--image-root", str(photos), "--to", str(target)]) == 0
    [row] = pandas.read_csv(target).to_dict("records")
    assert (row["file_name"], row["text"], row["prompt"]) == ("1.jpg", 'a\r"cat"\r\n', "p\rq")


def test_kohya_is_what_sd_scripts_look_up(output, photos, tmp_path):
    """Of `in_json` they take each key as a path, relative to the folder of images, and its `caption`."""
    assert main([output, "--format", "kohya", "--image-root", str(photos), "--to", str(tmp_path / "meta.json")]) == 0
    found = json.loads((tmp_path / "meta.json").read_text())
    assert {key: value["caption"].strip() for key, value in found.items()} == dict(
        zip(NAMES, WRITTEN.values(), strict=True)
    )
    assert all((photos / key).exists() for key in found)
    empty = write(tmp_path / "empty", [], [run()])
    assert main([empty, "--format", "kohya", "--to", str(tmp_path / "meta.json")]) == 0
    assert json.loads((tmp_path / "meta.json").read_text()) == {}
