"""Each input format, from a disk and from S3, to the same rows; and inputs that are wrong."""

from __future__ import annotations

import gzip
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.planning.worklist import scan_unit
from adafv.pipeline.sources import discovery
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import Row, from_table, row_of, to_table
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import NAMES, ROWS, add, write_all, write_images, write_jsonl, write_tar, write_uris
from tests.pipeline.pictures import SOUND

FORMATS = ("uris", "bytes", "structs", "jsonl", "tar")


def columns(prompt: str = "{question}", names: tuple[str, ...] = ("question",), **changes) -> Columns:
    values = {"id": "id", "image": "image", "question": "question", "image_root": None}
    return Columns(**values | changes, prompt=prompt, prompt_columns=names)


FIXED = columns("Describe.", ())


def read(uri: object, storage: Storage | None = None, wanted: Columns | None = None) -> list[Row]:
    """The rows of an input; the planning pass must see as many."""
    storage, wanted = storage or Storage(), wanted or columns()
    units = discovery.open_source(str(uri), storage, wanted).units
    found = [row_of(record, wanted) for unit in units for record in read_unit(unit, storage, wanted)]
    assert sum(len(scan_unit(unit, storage, wanted).digests) for unit in units) == len(found)
    return found


def rows_of(uri: object, storage: Storage | None = None, wanted: Columns | None = None) -> list[Row]:
    """Likewise, as they travel, and images fetched."""
    found = read(uri, storage, wanted)
    return Fetcher(storage or Storage(), max_bytes=10**7).fetch_rows(from_table(to_table(found)))


def check(rows: list[Row]) -> None:
    assert [row.reject for row in rows] == [None] * 4
    assert [row.id for row in rows] == [row["id"] for row in ROWS]
    assert [row.prompt for row in rows] == [row["question"] for row in ROWS]
    assert [row.images[0].data for row in rows] == [SOUND[name] for name in NAMES]


@pytest.mark.parametrize("name", FORMATS)
def test_local(tmp_path, name):
    path = write_all(tmp_path)[name]
    check(rows_of(path))
    check(rows_of(f"file://{path}"))


@pytest.mark.parametrize("name", FORMATS)
def test_s3(s3, tmp_path, name):
    path = write_all(tmp_path)[name]
    bucket = s3.new_bucket()
    s3.upload(tmp_path, f"s3://{bucket}/in")
    check(rows_of(f"s3://{bucket}/in/{path.name}", Storage.from_environment(environment=s3.environment)))


def test_image_folders(s3, tmp_path):
    (write_images(tmp_path / "in") / "sub").mkdir()
    (tmp_path / "in" / "sub" / "x.JPG").write_bytes(SOUND["plain.jpg"])
    (tmp_path / "in" / "notes.md").write_text("no image")
    (tmp_path / "in" / ".hidden.jpg").write_text("no image")
    assert sum(one.count for one in discovery.open_source(str(tmp_path / "in"), Storage(), FIXED).passed) == 2
    bucket = s3.new_bucket()
    s3.upload(tmp_path, f"s3://{bucket}")
    for uri, storage in (
        (tmp_path / "in", None),
        (f"s3://{bucket}/in/", Storage.from_environment(environment=s3.environment)),
    ):
        rows = rows_of(uri, storage, FIXED)
        assert [row.id for row in rows] == sorted([*NAMES, "sub/x.JPG"])
        assert all(row.prompt == "Describe." and row.reject is None for row in rows)
        assert rows[-1].images[0].data == SOUND["plain.jpg"]


def test_one_image(tmp_path):
    write_images(tmp_path)
    assert [row.id for row in rows_of(tmp_path / NAMES[0], None, FIXED)] == [NAMES[0]]


def test_relative_paths(tmp_path, monkeypatch):
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    check(rows_of("rows.jsonl"))


def test_many_small_row_groups_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "ROWS_PER_UNIT", 10)
    path = write_uris(
        tmp_path / "x.parquet", [{"id": i, "image": b"x", "question": "q"} for i in range(35)], row_group_size=4
    )
    assert len(discovery.open_source(str(path), Storage(), columns()).units) == 3
    rows = rows_of(path)
    assert [row.id for row in rows] == [str(i) for i in range(35)]
    assert rows[-1].image == f"{path}#34"


def test_a_folder_of_tables_is_read_by_them(tmp_path):
    write_jsonl(write_images(tmp_path) / "metadata.jsonl")
    check(rows_of(tmp_path))


def test_formats_without_a_telling_name(tmp_path):
    for name, path in write_all(tmp_path).items():
        check(rows_of(path.rename(tmp_path / f"data-{name}")))


def test_compressed_jsonl(tmp_path):
    plain = write_jsonl(write_images(tmp_path) / "rows.jsonl")
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    check(rows_of(tmp_path / "z.jsonl.gz"))


def test_other_columns_fill_the_prompt(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"key": 7, "pic": "a", "q": "why", "n": 2}])
    wanted = columns("{q}? {{{n}}}", ("q", "n"), id="key", image="pic", question="q")
    [row] = read(path, wanted=wanted)
    assert (row.id, row.question, row.prompt, row.images[0].uri) == ("7", "why", "why? {2}", "a")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none", "there is nothing"),
        (lambda folder: folder, "holds no files"),
        (lambda folder: (folder / "a.md").write_text("x") and folder, "1 files of other kinds"),
        (lambda folder: (folder / "a.bin").write_text("x") and folder / "a.bin", "neither Parquet"),
        (lambda folder: write_all(folder)["tar"].parent, "parquet and jsonl and tar"),
        (lambda folder: write_uris(folder / "a.parquet", [{"key": 1, "image": b""}]), "no column 'id'.*key, image"),
        (lambda folder: write_uris(folder / "a.parquet", [{"id": 1, "pic": b""}]), "no column 'image'.*id, pic"),
        (lambda folder: write_uris(folder / "a.parquet", [{"id": 1, "image": b""}]), "names question"),
        (lambda folder: write_jsonl(folder / "a.jsonl", [{"key": 1, "image": "x"}]), "no column 'id'.*image, key"),
        (lambda folder: write_jsonl(folder / "a.jsonl", [{"id": 1, "image": "x"}]), "names question"),
        (write_images, "names question"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_usage_errors(tmp_path, make, said):
    with pytest.raises(UsageError, match=said):
        rows_of(make(tmp_path))


def test_a_missing_bucket_is_a_usage_error(s3):
    with pytest.raises(UsageError, match="there is nothing"):
        rows_of("s3://no-such-bucket-here/x", Storage.from_environment(environment=s3.environment))


def errors(rows: list[Row]) -> list[str | None]:
    return [row.reject.error if row.reject else None for row in rows]


def test_bad_jsonl_lines_cost_only_themselves(tmp_path):
    good = json.dumps({"id": "a", "image": "x", "question": "q"}).encode()
    lines = [
        good,
        b"{broken",
        b"[1]",
        b"",
        b"\xff\xfe{}",
        b'"text"',
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        good,
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    found = read(tmp_path / "x.jsonl")
    assert errors(found) == [None, *["bad_row"] * 6, None]
    assert [row.image for row in found[1:3]] == [f"{tmp_path}/x.jsonl#1", f"{tmp_path}/x.jsonl#2"]


def test_overlong_lines_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("adafv.pipeline.sources.units.LINE_LIMIT", 2**21)
    good = b'{"id": "a", "image": "x", "question": "q"}'
    (tmp_path / "x.jsonl").write_bytes(good + b"\n" + b"x" * 2**24 + b"\n" + good + b"\n")
    assert errors(read(tmp_path / "x.jsonl")) == [None, "bad_row", None]


BAD_VALUES = [
    ({"id": None}, "missing_id"),
    ({"id": ""}, "missing_id"),
    ({"id": [1]}, "missing_id"),
    ({"id": True}, "missing_id"),
    ({"image": None}, "image_missing"),
    ({"image": ""}, "image_missing"),
    ({"image": 5}, "bad_row"),
    ({"image": {"bytes": None, "path": None}}, "image_missing"),
    ({"image": {"bytes": 3}}, "bad_row"),
    ({"question": None}, "prompt_incomplete"),
    ({"question": [3]}, "bad_row"),
    ({"question": {"a": 1}}, "bad_row"),
    ({"question": 5}, None),
    ({"question": ""}, None),  # the model's tokeniser decides whether anything is left of a prompt
    ({"id": 12}, None),
]


@pytest.mark.parametrize(("values", "error"), BAD_VALUES)
def test_bad_values(tmp_path, values, error):
    write_jsonl(tmp_path / "x.jsonl", [{"id": "a", "image": "x", "question": "q"} | values, *ROWS])
    assert errors(read(tmp_path / "x.jsonl")) == [error, None, None, None, None]


def test_a_missing_key_in_one_line_is_a_reject(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [*ROWS, {"id": "b", "image": "x"}, {"image": "x", "question": "q"}, {"id": "c"}])
    found = read(tmp_path / "x.jsonl")
    assert errors(found)[4:] == ["prompt_incomplete", "missing_id", "image_missing"]


def test_unpaired_surrogates_are_replaced(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "a\\ud800", "image": "i\\udfff", "question": "q\\ud83d!\\u0000"}\n')
    [row] = read(tmp_path / "x.jsonl")
    assert (row.id, row.images[0].uri, row.prompt) == ("a\ufffd", "i\ufffd", "q\ufffd!\0")


def test_names_that_are_not_utf8(tmp_path):
    folder = write_images(tmp_path)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    bad, *others = sorted(rows_of(folder, wanted=FIXED), key=lambda row: row.reject is None)
    assert (bad.id, bad.reject.error) == ("caf\ufffd.jpg", "bad_row") and bad.image == f"{folder}/caf\ufffd.jpg"
    assert len(others) == len(NAMES) and not any(row.reject for row in others)


def test_text_that_is_not_utf8_in_parquet(tmp_path):
    text = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe"))
    table = pa.table({"id": pa.array(["a", "b"]), "image": pa.array([b"x", b"x"]), "question": text})
    pq.write_table(table, tmp_path / "x.parquet")
    assert errors(rows_of(tmp_path / "x.parquet")) == [None, "bad_row"]


def test_a_file_that_is_no_parquet_is_one_reject(tmp_path):
    write_all(tmp_path)
    for name in ("bytes", "structs"):
        (tmp_path / f"{name}.parquet").unlink()
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "rows.tar").unlink()
    (tmp_path / "z.parquet").write_bytes(b"PAR1 but no more")
    rows = rows_of(tmp_path)
    check(rows[:4])
    assert errors(rows[4:]) == ["source_unreadable"] and rows[4].image == str(tmp_path / "z.parquet")


def test_damaged_image_pages_reject_their_rows_by_id(tmp_path):
    rows = [{"id": f"{i}", "image": os.urandom(2000), "question": "q"} for i in range(20)]
    path = write_uris(tmp_path / "x.parquet", rows, row_group_size=10, compression="zstd", use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    assert chunk.path_in_schema == "image"
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    found = rows_of(path)
    assert [row.id for row in found] == [str(i) for i in range(20)]
    assert errors(found) == ["source_unreadable"] * 10 + [None] * 10


def test_a_cut_tar_keeps_what_is_whole(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"r9.jpg": b"x" * 50_000})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"r9.jpg") + 10_000])
    rows = rows_of(path)
    check(rows[:4])
    assert errors(rows[4:]) == ["source_unreadable"]


def test_odd_tars(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "a/1.jpg", SOUND["plain.jpg"])
        add(tar, "a/1.json", b'{"id": "own", "question": "q", "image": "../../etc/passwd"}')
        add(tar, "a/2.json", b"{broken")
        add(tar, "a/3.txt", b"no picture")
        add(tar, "a/4.seg.png", SOUND["plain.png"])
        add(tar, "a/4.txt", b"\xff question ")
        folder = tarfile.TarInfo("a/5.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    rows = rows_of(tmp_path / "x.tar")
    assert [row.id for row in rows] == ["own", "a/2", "a/3", "a/4"]
    assert errors(rows) == [None, "bad_row", "image_missing", None]
    assert rows[0].images[0].data == SOUND["plain.jpg"] and rows[3].prompt == "\ufffd question"


def test_no_rows(tmp_path):
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "image": [], "question": []}), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet") == []
    (tmp_path / "y.jsonl").write_text("\n\n")
    assert rows_of(tmp_path / "y.jsonl") == []


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_header_in_the_middle_of_a_tar_is_no_end_of_it(tmp_path, cut):
    """What follows can't be read, and that is a reject: neither silence nor the end of the run."""
    path = write_tar(tmp_path / "x.tar")
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4].offset  # two members a sample
    data = bytearray(path.read_bytes())
    data[third : third + 200] = b"\xff" * 200
    path.write_bytes(data[: third + 100] if cut else data)
    found = read(path)
    assert errors(found)[-1] == "source_unreadable" and errors(found)[:1] == [None]
