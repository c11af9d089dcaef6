"""WebDataset shards: what the library and a job's own input find in them."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.exporting import shards
from adafv.exporting.shards import extension_of
from adafv.pipeline.sources import discovery
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.kinds import IMAGE_MAGIC
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import row_of
from adafv.pipeline.store.storage import Storage
from jobs.export import main
from tests.pipeline.inputs import write_jsonl
from tests.pipeline.pictures import SOUND, encoded, picture
from tests.reporting.outputs import label, run, write

JPEG, OTHER = SOUND["plain.jpg"], encoded(picture(9, 7), "JPEG")
PNG = encoded(picture(8, 8), "PNG")


def of(id: str, **values: Any) -> dict:
    image = {"image": values.pop("image", id), "panels": 1, "visual_tokens": 1, "kept_tokens": 1}
    return label(id, answer=f"a {id}\u2028", prompt="p", images=[image]) | values


def exported(folder: Path, labels: list[dict], runs: list[dict], *options: str) -> Path:
    uri = write(folder / "out", labels, runs)
    assert main([uri, "--format", "webdataset", "--to", str(folder / "set"), *options]) == 0
    return folder / "set"


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def read_again(folder: Path, **columns: Any) -> dict[str, tuple[str, bytes, str]]:
    """Of a job that has the shards as its input: each row's prompt, image and place, by id."""
    known = Columns(id="id", image="image", question="question", prompt="{txt}", prompt_columns=("txt",))
    units = discovery.open_source(str(folder), Storage(), known).units
    rows = [row_of(record, known) for unit in units for record in read_unit(unit, Storage(), known)]
    return {row.id: (row.prompt, row.images[0].data, row.images[0].name) for row in rows}


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, data in {"1.jpg": JPEG, "1.png": PNG, "sub/2.jpg": OTHER, "a b.c.jpg": JPEG, "left.jpg": PNG}.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_images(tmp_path, photos):
    """Keys are the images' names where that tells them apart; extensions are those of the bytes."""
    labels = [of(id) for id in ("sub/2.jpg", "1.png", "a b.c.jpg", "1.jpg")]
    folder = exported(tmp_path, labels, [run(config={"input": [str(photos)]})])
    found = members(folder)
    keys = ["1", "1%2Epng", "a%20b%2Ec", "sub/2"]
    assert [*found] == [f"{key}.{kind}" for key in keys for kind in ("png" if "png" in key else "jpg", "txt", "json")]
    assert found["sub/2.jpg"] == OTHER and found["1%2Epng.png"] == PNG
    assert found["sub/2.txt"].decode() == "a sub/2.jpg\u2028"
    columns = json.loads(found["sub/2.json"])
    assert columns["id"] == "sub/2.jpg" and columns["run_id"] == "r1" and "kept_indices" not in columns


def test_a_job_reads_them_again(tmp_path, photos):
    labels = [of(id) for id in ("1.jpg", "1.png", "sub/2.jpg", "a b.c.jpg")]
    folder = exported(tmp_path, labels, [run(config={"input": [str(photos)]})])
    again = read_again(folder)
    assert {id: data for id, (_, data, _) in again.items()} == {
        id: (photos / id).read_bytes() for id in ("1.jpg", "1.png", "sub/2.jpg", "a b.c.jpg")
    }
    assert {id: prompt for id, (prompt, *_) in again.items()} == {id: f"a {id}" for id in again}


def test_the_library_reads_them(tmp_path, photos):
    library = pytest.importorskip("webdataset")
    labels = [of(id) for id in ("1.jpg", "1.png", "sub/2.jpg", "a b.c.jpg")]
    folder = exported(tmp_path, labels, [run(config={"input": [str(photos)]})])
    samples = list(library.WebDataset([str(path) for path in folder.iterdir()], shardshuffle=False).decode("pil"))
    assert {one["json"]["id"]: one["txt"] for one in samples} == {row["id"]: row["answer"] for row in labels}
    assert all((one.get("jpg") or one.get("png")).size for one in samples)
    assert [one["__key__"] for one in samples] == ["1", "1%2Epng", "a%20b%2Ec", "sub/2"]


@pytest.mark.parametrize("moved", [False, True])
def test_tars_keep_their_keys(tmp_path, moved):
    source = tmp_path / "in"
    source.mkdir()
    for number, keys in enumerate((("000", "001"), ("a/002", "__x__", "003"))):
        with tarfile.open(source / f"{number}.tar", "w") as tar:
            for key in keys:
                (tmp_path / "image").write_bytes(JPEG + key.encode())
                tar.add(tmp_path / "image", f"{key}.jpg")
    labels = [of(id, image="in/0.tar#x") for id in ("003", "__x__", "001", "a/002")]
    runs = [run(config={"input": [str(source)]})]
    if moved:
        source.rename(tmp_path / "there")
    folder = exported(tmp_path, labels, runs, *(["--input", str(tmp_path / "there")] if moved else []))
    found = members(folder)
    assert [name for name in found if name.endswith("jpg")] == ["001.jpg", "a/002.jpg", "__x__.jpg", "003.jpg"]
    assert found["a/002.jpg"] == JPEG + b"a/002"
    assert {id: data for id, (_, data, _) in read_again(folder).items()} == {
        id: JPEG + id.encode() for id in ("001", "a/002", "__x__", "003")
    }


def test_images_in_parquet_and_paths_in_tables(tmp_path, photos):
    """Several runs have their own inputs. Of Parquet only the row groups with labels are read."""
    names = [f"row {n}" for n in range(40)]
    table = pa.table({"key": names, "pic": [PNG + name.encode() for name in names]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10)
    listed = write_jsonl(tmp_path / "rows.jsonl", [{"id": 7, "image": "1.jpg"}, {"id": 8, "image": "gone.jpg"}])
    runs = [
        run("p", config={"input": [str(tmp_path / "rows.parquet")], "id_column": "key", "image_column": "pic"}),
        run("j", config={"input": [str(listed)], "image_root": str(photos)}),
    ]
    found = members(exported(tmp_path, [of("row 3", run_id="p"), of("7", run_id="j"), of("row 31", run_id="p")], runs))
    assert [name for name in found if name.endswith("g")] == ["row%203.png", "row%2031.png", "7.jpg"]
    assert found["row%2031.png"] == PNG + b"row 31" and found["7.jpg"] == JPEG


def test_each_question_of_a_row_is_a_sample(tmp_path, photos):
    asked = write_jsonl(tmp_path / "rows.jsonl", [{"id": "r", "image": "1.jpg", "question": ["what?", "who?"]}])
    config = {"input": [str(asked)], "image_root": str(photos), "prompt": "Why? {question}"}
    folder = exported(tmp_path, [of("r/1"), of("r/2")], [run(config=config)])
    assert [*members(folder)] == [f"r/{n}.{kind}" for n in (1, 2) for kind in ("jpg", "txt", "json")]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (None, {"prompts": [["Describe.", 1.0], ["Name it.", 1.0]]}),
        ({"question": ["what?", "who?"]}, {"prompts": [["Describe.", 1.0]]}),
        ({"question": None}, {"prompts": [["Describe.", 1.0], ["{question}", 1e-9]]}),
        ({"keep": 1}, {"where": "keep == 1"}),
        ({}, {"max_image_bytes": 2 * len(JPEG)}),
    ],
    ids=["a folder", "a list", "no question", "where", "bytes"],
)
def test_rows_are_those_of_the_job(tmp_path, photos, row, options):
    """Its record has the default prompt beside --prompts. A row that wasn't one of the job's has the same id."""
    source = photos
    if row is not None:
        first = {"id": "1.jpg", "image": "1.png", "keep": 0}
        lines = [first] * ("where" in options) + [{"id": "1.jpg", "image": "1.jpg"} | row]
        lines.append({"id": "large", "image": "large.jpg"} | row)
        (photos / "large.jpg").write_bytes(JPEG * 3)
        source = write_jsonl(tmp_path / "rows.jsonl", lines)
    config = {"input": [str(source)], "prompt": "{question}" if "prompts" in options else "Describe."} | options
    config |= {} if row is None else {"image_root": f"{photos}/"}
    labels = [of("1.jpg"), *[of("large")] * ("max_image_bytes" in options)]
    assert [*members(exported(tmp_path, labels, [run(config=config)]))] == ["1.jpg", "1.txt", "1.json"]


@pytest.mark.parametrize("table", [False, True])
def test_images_with_a_root_that_moved(tmp_path, photos, table):
    source = write_jsonl(tmp_path / "rows.jsonl", [{"id": "1.jpg", "image": "1.jpg"}]) if table else photos
    runs = [run(config={"input": [str(source)], "image_root": str(photos)})]
    photos.rename(tmp_path / "there")
    options = [str(source), "--image-root", str(tmp_path / "there")] if table else [str(tmp_path / "there")]
    assert members(exported(tmp_path, [of("1.jpg")], runs, "--input", *options))["1.jpg"] == JPEG


def test_what_cannot_be_read_of_the_input_is_told(tmp_path, photos, capsys):
    source = write_jsonl(tmp_path / "rows.jsonl", [{"id": "1", "image": "1.jpg"}])
    (tmp_path / "more.jsonl.gz").write_bytes(gzip.compress(b'{"id": "2", "image": "1.jpg"}\n')[:-12])
    inputs = [str(source), str(tmp_path / "more.jsonl.gz")]
    runs = [run(config={"input": inputs, "image_root": str(photos)})]
    exported(tmp_path, [of("1"), of("2"), of("2")], runs)
    said = capsys.readouterr().out
    assert "more.jsonl.gz#" in said and "2: what can be read of the input has no row" in said
    assert "2: another label has this id" in said and "2 labels were left out" in said


def test_a_full_disk_is_said_in_one_line(tmp_path, photos, monkeypatch, capsys):
    connect = shards.sqlite3.connect

    def full(place: Path):
        database = connect(place)
        database.execute("PRAGMA max_page_count = 4")
        return database

    monkeypatch.setattr(shards.sqlite3, "connect", full)
    uri = write(tmp_path / "out", [of(f"{n}.jpg") for n in range(99)], [run(config={"input": [str(photos)]})])
    assert main([uri, "--format", "webdataset", "--to", str(tmp_path / "set")]) == 1
    assert "(TMPDIR): database or disk is full" in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_keys_keep_slashes_where_readers_can_have_them():
    ids = {"a b/c~": "a%20b/c%7E", "a//b c": "a%2F%2Fb%20c", "__a__/b": "__a__%2Fb", "../x": "%2E%2E/x"}
    assert {id: shards._encoded(id) for id in ids} == ids


def test_what_cannot_be_had_is_counted(tmp_path, photos, capsys):
    (photos / "1.jpg").unlink()
    (photos / "1.jpg").symlink_to(tmp_path / "elsewhere")
    (photos / "1.png").write_bytes(b"<html>")
    rows = [{"id": id, "image": f"{id}.jpg"} for id in ("sub/2", "1", "gone", "sub/2")]
    rows.append({"id": "page", "image": "1.png"})
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    pair = of("pair")
    labels = [*map(of, ("sub/2", "1", "gone", "page", "old")), pair | {"images": pair["images"] * 2}]
    folder = exported(tmp_path, labels, [run(config={"input": [str(source)], "image_root": str(photos)})])
    assert [*members(folder)] == ["sub/2.jpg", "sub/2.txt", "sub/2.json"]
    said = capsys.readouterr().out
    assert "1 labels\n" in said and "5 labels were left out" in said
    reasons = ["pair: it has 2 images", "1: '1.jpg' leaves", "gone: no file 'gone.jpg'", "page: its image is none"]
    assert all(reason in said for reason in [*reasons, "old: the input has no row with this id any more"])


def test_shards_are_cut_by_size_and_always_the_same(tmp_path, photos):
    labels = [of(id) for id in ("1.jpg", "1.png", "sub/2.jpg")]
    runs = [run(config={"input": [str(photos)]})]
    folder = exported(tmp_path, labels, runs, "--shard-bytes", "1")
    assert sorted(path.name for path in folder.iterdir()) == [f"set-{n:06}.tar" for n in range(3)]
    assert [*read_again(folder)] == ["1.jpg", "1.png", "sub/2.jpg"]
    digests = [hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]
    again = tmp_path / "again"
    again.mkdir()
    second = exported(again, labels[::-1], runs, "--shard-bytes", "1")
    assert [hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(second.iterdir())] == digests


def test_it_is_whole_or_not_there(tmp_path, photos, capsys):
    runs = [run(config={"input": [str(tmp_path / "gone")]})]
    uri = write(tmp_path / "out", [of("1.jpg")], runs)
    arguments = [uri, "--format", "webdataset", "--to", str(tmp_path / "set")]
    assert main(arguments) == 2
    assert "--input says where they are now" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    (tmp_path / "set").mkdir()
    assert main([*arguments, "--input", str(photos)]) == 0, "an empty folder is new"
    before = members(tmp_path / "set")
    assert main([*arguments, "--input", str(photos)]) == 2 and "name a new folder" in capsys.readouterr().err
    assert members(tmp_path / "set") == before
    assert main([uri, "--format", "webdataset", "--to", str(tmp_path / "no/set")]) == 1


def test_extensions_are_those_of_the_bytes():
    kinds = {name: name.rpartition(".")[2] for name in SOUND}
    usual = {"jpeg": "jpg", "tiff": "tif"}
    assert {name: extension_of(data) for name, data in SOUND.items()} == {
        name: usual.get(kind, kind) for name, kind in kinds.items()
    }
    big = encoded(picture(8, 8), "TIFF", big_tiff=True)
    assert extension_of(big) == extension_of(b"MM\0+\0\x08\0\0") == "tif" and big.startswith(IMAGE_MAGIC)
    assert extension_of(b"<html>") is None
