"""Images are found again in every kind of input, and only where they may be looked for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from adafv.pipeline.images import run_input
from adafv.pipeline.sources import formats
from adafv.pipeline.store.storage import Storage
from adafv.reporting import pictures, thumbnails
from adafv.reporting.drawing import Picture
from adafv.reporting.pictures import Access, find_pictures

COLOURS = {"a": (250, 10, 10), "b": (10, 250, 10), "c": (10, 10, 250)}


def encoded(colour, size=(60, 40), kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def rows(images: dict[str, str], run_id: str = "r") -> list[dict]:
    return [{"id": id, "image": image, "run_id": run_id} for id, image in images.items()]


def find(images: dict[str, str], config: dict, access: Access | None = None) -> dict:
    return find_pictures(rows(images), {"r": config}, access or Access(Storage()))


def shows(picture, id: str) -> bool:
    """Whether it is the picture of that colour."""
    assert isinstance(picture, Picture), picture
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.size == (picture.width, picture.height)
        return all(abs(one - other) < 12 for one, other in zip(image.getpixel((5, 5)), COLOURS[id], strict=True))


def write_parquet(path: Path, values: dict, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(values), path, **options)


def many_ids() -> list[str]:
    return [f"x{n}" for n in range(50)] + list(COLOURS) + [f"y{n}" for n in range(50)]


@pytest.mark.parametrize("embedding", ["bytes", "struct", "integer ids"])
def test_images_in_parquet(tmp_path, embedding):
    """Their labels say nothing of where, but by the name in the struct, which is no file."""
    data = {id: encoded(COLOURS.get(id, (0, 0, 0))) for id in many_ids()}
    ids = list(data)
    images = list(data.values()) if embedding == "bytes" else [{"bytes": d, "path": "x.png"} for d in data.values()]
    wanted = {id: ids.index(id) for id in COLOURS}
    names = [str(n) for n in range(len(ids))] if embedding == "integer ids" else ids
    keys = list(range(len(ids))) if embedding == "integer ids" else ids
    write_parquet(tmp_path / "in" / "0.parquet", {"key": keys, "pic": images}, row_group_size=10)
    config = {"input": [str(tmp_path / "in")], "id_column": "key", "image_column": "pic"}
    found = find({names[place]: "x.png" for place in wanted.values()}, config)
    assert all(shows(found[names[place]], id) for id, place in wanted.items())


def test_images_of_conversations_in_parquet(tmp_path):
    talk = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(["<image> a", "b", "c"])]
    values = {"id": ["x"], "image": [encoded(COLOURS["a"])], "conversations": [talk]}
    write_parquet(tmp_path / "0.parquet", values)
    config = {"input": [str(tmp_path)], "conversations_column": "conversations", "prompt": "{question} Be brief."}
    found = find({"x/1": "0.parquet#0", "x/2": "0.parquet#0"}, config)
    assert shows(found["x/1"], "a") and shows(found["x/2"], "a")


def test_only_row_groups_that_hold_an_id_are_read(tmp_path, monkeypatch):
    ids = sorted(f"{n:03d}" for n in range(100))
    write_parquet(tmp_path / "0.parquet", {"id": ids, "image": [encoded((9, 9, 9))] * 100}, row_group_size=10)
    read, units = formats.read_unit, []
    monkeypatch.setattr(run_input, "read_unit", lambda unit, *more: (units.append(unit), read(unit, *more))[1])
    found = find({"055": "", "071": ""}, {"input": [str(tmp_path / "0.parquet")]})
    assert [unit.groups for unit in units] == [(5, 7)] and all(isinstance(each, Picture) for each in found.values())


@pytest.mark.parametrize("root", [None, "elsewhere"])
def test_paths_in_tables(tmp_path, root):
    """Relative to the table's folder, or to --image-root."""
    folder = tmp_path / (root or "in")
    (folder / "deep").mkdir(parents=True)
    for id, colour in COLOURS.items():
        (folder / "deep" / f"{id}.png").write_bytes(encoded(colour))
    images = {id: f"deep/{id}.png" for id in COLOURS}
    write_parquet(tmp_path / "in" / "t.parquet", {"id": list(images), "image": list(images.values())})
    config = {"input": [str(tmp_path / "in" / "t.parquet")], "image_root": root and str(folder)}
    found = find(images, config)
    assert all(shows(found[id], id) for id in COLOURS)


def test_the_same_path_in_two_folders_is_told_apart_by_the_row(tmp_path):
    for id in ("a", "b"):
        (tmp_path / id).mkdir()
        (tmp_path / id / "1.png").write_bytes(encoded(COLOURS[id]))
        (tmp_path / id / "rows.jsonl").write_text(json.dumps({"id": id, "image": "1.png"}) + "\n")
    found = find({"a": "1.png", "b": "1.png"}, {"input": [str(tmp_path / "a"), str(tmp_path / "b")]})
    assert shows(found["a"], "a") and shows(found["b"], "b")


def test_a_folder_of_images(tmp_path):
    for id, colour in COLOURS.items():
        (tmp_path / f"{id}.png").write_bytes(encoded(colour))
    found = find({f"{id}.png": f"{id}.png" for id in COLOURS}, {"input": [str(tmp_path)]})
    assert all(shows(found[f"{id}.png"], id) for id in COLOURS)


@pytest.mark.parametrize("moved", [False, True])
def test_tars(tmp_path, moved):
    """Of two tars with the same ids that which the label names, also where the tars are now elsewhere."""
    for name, colours in (("one.tar", COLOURS), ("two.tar", dict.fromkeys(COLOURS, (0, 0, 0)))):
        (tmp_path / "in").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "in" / name, "w") as tar:
            for id, colour in colours.items():
                data = encoded(colour)
                member = tarfile.TarInfo(f"{id}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    given = str(tmp_path / "in")
    access = None
    if moved:
        (tmp_path / "in").rename(tmp_path / "now")
        access = Access(Storage(), input=(str(tmp_path / "now"),))
    found = find({id: f"{given}/one.tar#{id}.png" for id in COLOURS}, {"input": [given]}, access)
    assert all(shows(found[id], id) for id in COLOURS)


def test_images_on_s3(s3):
    storage, bucket = Storage.from_environment(environment=s3.environment), s3.new_bucket()
    client = storage.client()
    client.put_object(Bucket=bucket, Key="images/a.png", Body=encoded(COLOURS["a"]))
    line = json.dumps({"id": "a", "image": f"s3://{bucket}/images/a.png"})
    client.put_object(Bucket=bucket, Key="in/rows.jsonl", Body=line.encode())
    found = find({"a": f"s3://{bucket}/images/a.png"}, {"input": [f"s3://{bucket}/in"]}, Access(storage))
    assert shows(found["a"], "a")


@pytest.mark.parametrize("given", [False, True])
def test_an_image_root_on_s3_with_a_slash(s3, tmp_path, given):
    """In the record, or as an option."""
    storage, bucket = Storage.from_environment(environment=s3.environment), s3.new_bucket()
    storage.client().put_object(Bucket=bucket, Key="images/a.png", Body=encoded(COLOURS["a"]))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "image": "a.png"}))
    root = f"s3://{bucket}/images/"
    config = {"input": [str(tmp_path / "rows.jsonl")], "image_root": None if given else root}
    assert shows(find({"a": "a.png"}, config, Access(storage, image_root=root if given else None))["a"], "a")


def test_rows_of_several_runs_have_their_own_inputs(tmp_path):
    for id in ("a", "b"):
        (tmp_path / id).mkdir()
        (tmp_path / id / "x.png").write_bytes(encoded(COLOURS[id]))
    given = rows({"a": "x.png"}, "first") + rows({"b": "x.png"}, "second")
    configs = {"first": {"input": [str(tmp_path / "a")]}, "second": {"input": [str(tmp_path / "b")]}}
    found = find_pictures(given, configs, Access(Storage()))
    assert shows(found["a"], "a") and shows(found["b"], "b")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(encoded(COLOURS["a"]))
    (tmp_path / "secret.png").write_bytes(encoded(COLOURS["b"]))
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../secret.png", "leaves the image root"),
        ("/etc/passwd", "leaves the image root"),
        ("gone.png", "no file 'gone.png'"),
        ("http://example.invalid/x.png", "needs --allow-http"),
        ("https://example.invalid/x.png?…", "had a signature or query"),
        ("", "no row with this id"),
    ],
)
def test_what_may_not_or_cannot_be_read_has_a_reason(folder, image, reason):
    found = find({"x": image, "good": "good.png"}, {"input": [str(folder)]})
    assert reason in found["x"] and shows(found["good"], "a")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "give --input"),
        ({"input": ["/nowhere/at/all"]}, "there is nothing"),
        ({"input": []}, "give --input"),
    ],
)
def test_an_input_that_is_gone_has_a_reason(config, reason):
    assert reason in find({"a": "a.png"}, config)["a"]


def test_what_is_damaged_or_kills_its_decoder_costs_itself_alone(folder, monkeypatch):
    (folder / "broken.png").write_bytes(encoded(COLOURS["a"])[:50])
    (folder / "page.png").write_bytes(b"<!doctype html>")
    images = {name: f"{name}.png" for name in ("broken", "page", "good")}
    found = find(images, {"input": [str(folder)]})
    assert "HTML" in found["page"] and isinstance(found["broken"], str) and shows(found["good"], "a")


def test_a_picture_with_too_many_pixels_is_not_decoded(folder, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    assert "pixels" in find({"good": "good.png"}, {"input": [str(folder)]})["good"]


def test_it_ends_when_its_time_is_up(folder, monkeypatch):
    monkeypatch.setattr(pictures, "SECONDS", -1.0)
    assert find({"good": "good.png"}, {"input": [str(folder)]})["good"].startswith("not found in")


@pytest.mark.parametrize("size", [(3000, 1000), (1000, 4000), (30, 20), (20000, 1)])
def test_pictures_are_small(tmp_path, size):
    (tmp_path / "a.png").write_bytes(encoded(COLOURS["a"], size))
    picture = find({"a": "a.png"}, {"input": [str(tmp_path)]})["a"]
    assert picture.width <= thumbnails.WIDTH and picture.height <= thumbnails.HEIGHT and picture.data[:2] == b"\xff\xd8"
    assert (
        (picture.width, picture.height) == size
        or picture.width == thumbnails.WIDTH
        or picture.height == thumbnails.HEIGHT
    )
