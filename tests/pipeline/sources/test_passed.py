"""What a source shows is a row, a reject, or counted as passed over: nothing else, whatever the source is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.passed import Passed, PassedOver
from adafv.pipeline.planning.worklist import scan_unit
from adafv.pipeline.sources import tars
from adafv.pipeline.sources.discovery import check_roots, open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.listing import expand_braces, list_files
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import Row, row_of
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import NAMES, ROWS, add, write_images, write_jsonl, write_tar, write_uris
from tests.pipeline.pictures import SOUND

ASKED = Columns(id="id", image="image", question="question", prompt="{question}", prompt_columns=("question",))
FIXED = Columns(id="id", image="image", question="question", prompt="Describe.", prompt_columns=())
JPEG = SOUND["plain.jpg"]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def shown(
    uri: object, columns: Columns = FIXED, output: object = None, storage: Storage | None = None
) -> tuple[list[Record], PassedOver]:
    """An input's records, and what is none. The planning pass, which counts, must see as many."""
    storage = storage or Storage()
    source = open_source(str(uri), storage, columns, None if output is None else str(output))
    passed, records = PassedOver(source.passed), []
    for unit in source.units:
        scan = scan_unit(unit, storage, columns)
        passed.update(scan.passed)
        found = list(read_unit(unit, storage, columns))
        assert len(found) == len(scan.digests)
        records += found
    return records, passed


def ids(records: list[Record]) -> list[str]:
    return [record.columns["id"] for record in records]


def errors(records: list[Record], columns: Columns = FIXED) -> list[str | None]:
    rows = [row_of(record, columns) for record in records]
    return [row.reject.error if row.reject else None for row in rows]


def why(passed: PassedOver) -> dict[str, int]:
    return {one.why: one.count for one in passed}


class Member(tarfile.TarInfo):
    """A member with its bytes."""

    data = b""


def member(name: str, data: bytes = JPEG, kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = Member(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    info.data = data
    return info


def packed(members: list[Member]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(info.data) if info.size else None)
    return file.getvalue()


# The property, over generated archives, files and folders

STEMS = st.sampled_from(["1", "2", "a/1", "2024.05.01 trip", "2024.05.02 trip", "1.seg", ".hidden", "__MACOSX/1", "_x"])
ENDS = st.sampled_from([".jpg", ".PNG", ".txt", ".json", ".cls", ""])
MEMBERS = st.lists(st.tuples(STEMS, ENDS, st.sampled_from(["file"] * 6 + ["link", "folder", "pipe"])), max_size=12)
KINDS = {"link": tarfile.LNKTYPE, "folder": tarfile.DIRTYPE, "pipe": tarfile.FIFOTYPE, "file": tarfile.REGTYPE}


@settings(max_examples=150)
@given(MEMBERS, st.sampled_from([b"", bytes(1000), b"junk" * 300]), st.sampled_from([0, 100]))
def test_each_member_of_a_tar_is_accounted_for(tmp_path_factory, given_members, tail, limit):
    """Each has bytes of its own, by which it is found in the records; what isn't is in the counts."""
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    members = []
    for number, (stem, end, kind) in enumerate(given_members):
        text = json.dumps({"n": number}) if end == ".json" else f"text {number}"
        data = b"image %d" % number if end in (".jpg", ".PNG") else text.encode()
        members.append(member(f"{stem}{end}", data, KINDS[kind], "elsewhere"))
    path.write_bytes(packed(members) + tail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tars, "GROUP_LIMIT", limit)
        records, passed = shown(path)
    found = set()
    in_rejects = 0  # members of samples without a useful one
    for record in records:
        values, message = record.columns, record.reject.message if record.reject else ""
        found |= {values["image"]["bytes"]} if "image" in values else set()
        found |= {values["txt"].encode()} if "txt" in values else set()
        found |= {json.dumps({"n": values["n"]}).encode()} if "n" in values else set()
        in_rejects += int(count[1]) if (count := re.search(r"it has (\d+) members", message)) else 0
    if not any(one.islnk() for one in members):
        assert passed.total("members") + len(found) + in_rejects == len(members)
    images = [one.data for one in members if one.isfile() and one.name.lower().endswith((".jpg", ".png"))]
    rows = [record.columns["image"]["bytes"] for record in records if "image" in record.columns]
    assert len(rows) == len(set(rows)) and set(rows) <= set(images), "each image is one row at most"
    assert passed.total("rests of files") == tail.startswith(b"junk")


GOOD = {"id": "a", "image": "x", "question": "q"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("more", [b"", json.dumps(GOOD).encode()])
def test_compressed_nothing_is_nothing(tmp_path, pack, more):
    """Also before something: a tool may begin a file with an empty part."""
    (tmp_path / "x.jsonl").write_bytes(pack(b"") + (pack(more) if more else b""))
    records = [*read_unit(Unit("jsonl", f"{tmp_path}/x.jsonl"), Storage(), ASKED)]
    assert errors(records, ASKED) == [None] * bool(more)


LINES = st.lists(st.sampled_from(["", "  ", json.dumps(GOOD), "{broken", "[1]", '"text"', "7"]), max_size=12)


@given(
    LINES,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress, zstd]),
)  # fmt: skip
def test_each_line_is_accounted_for(tmp_path_factory, lines, encoding, end, pack):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(pack("".join(line + end for line in [json.dumps(GOOD), *lines]).encode(encoding)))
    records, passed = shown(path, ASKED)
    assert len(records) + passed.total("lines") == 1 + len(lines)
    assert errors(records, ASKED).count(None) == 1 + lines.count(json.dumps(GOOD))
    assert passed.total("lines") == sum(1 for line in lines if not line.strip())


@given(st.lists(st.sampled_from([GOOD, 7, "text", [1], None]), max_size=8), st.sampled_from(["", " \n", "junk", "]"]),
       st.sampled_from([None, 1]), st.booleans())  # fmt: skip
def test_each_element_of_a_list_is_accounted_for(tmp_path_factory, elements, tail, indent, twice):
    path = tmp_path_factory.mktemp("list") / "x.jsonl"
    text = json.dumps([GOOD, *elements], indent=indent)
    path.write_text(text + ("\n" + text) * twice + tail)
    records, passed = shown(path, ASKED)
    assert len(records) == (1 + len(elements)) * (1 + twice)
    assert passed.total("rests of files") == (1 if tail.strip() else 0)


PARTS = st.sampled_from(["a", "b.c", ".git", "_tmp", "__MACOSX", "out", "labels", "runs"])
FILES = st.sampled_from(["1.jpg", "_2.PNG", ".3.jpg", "notes.md", "x.jxl", "x.json", "recipe.json", "Thumbs.db", "y"])
PATH = st.tuples(st.lists(PARTS, max_size=3), FILES).map(lambda path: "/".join([*path[0], path[1]]))
PATHS = st.sets(PATH, max_size=15)


@settings(max_examples=80)
@given(PATHS, PATHS, st.sampled_from([None, "out", "a/out", ""]))
def test_each_file_of_a_folder_is_accounted_for(tmp_path_factory, images, tables, output):
    root = tmp_path_factory.mktemp("folder")
    for name in ["0.jpg", *images]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"" if (root / name).name == "y" else JPEG)
    if tables:
        (root / "t.jsonl").write_text(json.dumps(GOOD) + "\n")
    count = sum(1 for path in root.rglob("*") if path.is_file())
    records, passed = shown(root, FIXED, None if output is None else root / output)
    assert len(records) + passed.total("files") == count
    assert not {"/.git/", "/out/"} & {f"/{record.columns['image']}/" for record in records}


# Decisions, one by one


def test_what_is_passed_over_says_so():
    passed = PassedOver([Passed("files", "of a reason", 3, "x")])
    passed.add("files", "of a reason", "never shown", 2)
    passed.add("members", "of another", "https://user:secret@host/x.tar?sig=1\n\ud800")
    assert [str(one) for one in passed] == [
        "5 files, because of a reason (such as x)",
        "1 member, because of another (such as https://host/x.tar?…)",
    ]
    assert [one.count for one in passed] == [5, 1] and passed.total() == 6


@pytest.mark.parametrize("name", ["s.tgz", "s.tar.gz", "s.tar.bz2", "s.tbz2", "s.tar.xz", "s.txz", "s.tar.zst", "s.tar",
                                  "shard"])  # fmt: skip
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])  # fmt: skip
def test_a_tar_is_unpacked_by_its_bytes(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(write_tar(tmp_path / "plain").read_bytes()))
    records, passed = shown(tmp_path / name, ASKED)
    assert ids(records) == [row["id"] for row in ROWS] and errors(records, ASKED) == [None] * 4 and not list(passed)


def write_members(path: Path, *names: str) -> Path:
    """A tar of members with these names; a .txt holds its name."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            add(tar, name, name.encode() if name.endswith(".txt") else JPEG)
    return path


def test_photos_with_dots_in_their_names_are_a_row_each(tmp_path):
    names = [f"2024.05.{day:02d} trip.jpg" for day in range(1, 11)]
    records, passed = shown(write_members(tmp_path / "x.tar", *names))
    assert ids(records) == [name.removesuffix(".jpg") for name in names] and not list(passed)
    assert [record.columns["image"]["path"] for record in records] == [f"{tmp_path}/x.tar#{name}" for name in names]


def test_a_mask_beside_a_photo_is_passed_over(tmp_path):
    names = [name for i in range(3) for name in (f"{i}.depth.png", f"{i}.jpg", f"{i}.seg.png", f"{i}.txt")]
    records, passed = shown(write_members(tmp_path / "x.tar", *names), ASKED)
    assert ids(records) == ["0", "1", "2"]
    assert [record.columns["image"]["path"][-5:] for record in records] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [record.columns["question"] for record in records] == ["0.txt", "1.txt", "2.txt"]
    assert why(passed) == {"an image beside a sample's own, such as a mask, is not asked about": 6}


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["1.jpg", "1.png", "1.txt"], {"1": "1.txt", "1.png": "1.txt"}),
        (["1.seg.png", "1.txt"], {"1": "1.txt"}),
        (["1.a.png", "1.b.png", "1.txt", "1.b.txt"], {"1.a": "1.txt", "1.b": "1.b.txt"}),
        (["1.a.png", "1.a.jpg", "1.txt"], {"1.a": "1.txt", "1.a.jpg": "1.txt"}),
        (["1.jpg", "1.txt", "1.short.txt"], {"1": "1.txt"}),
        (["1.jpg", "1.long.txt"], {"1": "1.long.txt"}),
        (["./a/1.jpg", "./a/1.txt", "b/1.jpg", "b/1.txt"], {"a/1": "./a/1.txt", "b/1": "b/1.txt"}),
    ],
)
def test_which_images_of_a_key_are_rows(tmp_path, names, rows):
    records, passed = shown(write_members(tmp_path / "x.tar", *names), ASKED)
    assert {record.columns["id"]: record.columns["question"] for record in records} == rows
    assert passed.total("members") == len([name for name in names if name == "1.short.txt"])


def test_a_text_apart_from_its_image_is_told_how_to_pack_them(tmp_path):
    """tar packs a folder in the order that the disk has, where an image's text may come first: it takes the id."""
    records, _ = shown(write_members(tmp_path / "x.tar", "1.txt", "2.jpg", "1.jpg"))
    assert ids(records) == ["1", "2", "1"] and errors(records) == ["image_missing", None, None]
    assert "has no image, only 1.txt" in records[0].reject.message and "tar --sort=name" in records[0].reject.message


def test_an_image_that_stands_twice_is_a_repetition(tmp_path):
    records, _ = shown(write_members(tmp_path / "x.tar", "1.jpg", "1.jpg"))
    assert ids(records) == ["1", "1"]


def test_images_of_one_key_are_not_all_held(tmp_path, monkeypatch):
    """A tar of a million dated photos has one key."""
    monkeypatch.setattr(tars, "GROUP_LIMIT", 3 * len(JPEG))
    names = [f"2024.{day:03d}.jpg" for day in range(20)]
    records, _ = shown(write_members(tmp_path / "x.tar", *names))
    assert ids(records) == [name.removesuffix(".jpg") for name in names]


def test_links_folders_and_systems_members(tmp_path):
    data = packed([
        member("1.jpg"), member("2.jpg", kind=tarfile.LNKTYPE, link="1.jpg"),
        member("3.jpg", kind=tarfile.SYMTYPE, link="1.jpg"),
        member("4.jpg", kind=tarfile.DIRTYPE), member("5.jpg", kind=tarfile.FIFOTYPE), member("__MACOSX/6.jpg"),
        member("._7.jpg"), member(".git/8.jpg"), member("_9.jpg"), member("10.jxl"),
    ])  # fmt: skip
    (tmp_path / "x.tar").write_bytes(data)
    records, passed = shown(tmp_path / "x.tar")
    assert ids(records) == ["1", "2", "3", "_9", "10"]
    assert errors(records) == [None, "bad_row", "bad_row", None, "image_missing"]
    assert "tar --dereference --hard-dereference" in records[1].reject.message  # type: ignore[union-attr]
    assert "10.jxl" in records[4].reject.message  # type: ignore[union-attr]
    assert passed.total("members") == 5 and len(list(passed)) == 4


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("tail", "rests"), [(b"", 0), (bytes(5000), 0), (b"x" * 600, 1), (packed([member("2.jpg")]), 1)]
)
def test_what_lies_behind_the_end_of_a_tar_is_counted(tmp_path, pack, tail, rests):
    (tmp_path / "x.tar").write_bytes(pack(packed([member("1.jpg")]) + tail))
    records, passed = shown(tmp_path / "x.tar")
    assert ids(records) == ["1"] and errors(records) == [None]
    assert passed.total() == passed.total("rests of files") == rests


def test_a_tar_that_is_cut_off_between_members_is_counted(tmp_path):
    """It looks whole but for its end, as a download can on a full disk."""
    whole = packed([member("1.jpg"), member("2.jpg")])
    (tmp_path / "x.tar").write_bytes(whole[: whole.rindex(b"2.jpg")])
    records, passed = shown(tmp_path / "x.tar")
    assert errors(records) == [None]
    assert [str(one) for one in passed] == [
        f"1 rest of file, because a tar without the zeros at its end may be cut off there (such as {tmp_path}/x.tar)"
    ]


@pytest.mark.parametrize("within", [True, False])
def test_a_tar_whose_rest_is_zeros_is_counted(tmp_path, within):
    """It has its full size and zeros at its end, as after a download that was broken off, or a crash."""
    whole = packed([member("1.jpg"), member("1.cls", b"x" * 1000), *(member(f"{i}.jpg") for i in range(2, 100))])
    start = whole.index(b"2.jpg") - 700 * within
    (tmp_path / "x.tar").write_bytes(whole[:start] + bytes(len(whole) - start))
    records, passed = shown(tmp_path / "x.tar")
    assert errors(records) == [None] and why(passed) == {
        "of a sample only the image, a .json and a .txt are read": 1,
        "a tar with more zeros at its end than usual may have lost members there": 1,
    }


def test_garbage_behind_a_compressed_tar_is_no_reject(tmp_path):
    (tmp_path / "x.tgz").write_bytes(gzip.compress(packed([member("1.jpg")])) + b"garbage")
    records, passed = shown(tmp_path / "x.tgz")
    assert errors(records) == [None] and passed.total("rests of files") == 1


def test_files_without_rows_are_counted(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"")
    records, passed = shown(tmp_path, ASKED)
    assert len(records) == 4 and why(passed) == {"no rows were found": 1}
    folder = tmp_path / "parquet"
    folder.mkdir()
    write_uris(folder / "a.parquet")
    pq.write_table(pq.read_table(folder / "a.parquet").slice(0, 0), folder / "b.parquet")
    assert why(shown(folder, ASKED)[1]) == {"no rows were found": 1}


# Whole folders and what people point at


@pytest.mark.parametrize("place", ["photos/labelled", "photos"])
def test_the_jobs_own_output_is_no_input(tmp_path, place):
    write_images(tmp_path / "photos")
    write_images(tmp_path / "photos" / "labels")  # a folder of the user's that happens to be called so
    for name in ("labels/a.parquet", "rejects/b.parquet", "runs/c.json", "recipe.json", ".tmp/d", "lease/e.json"):
        (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place / name).write_bytes(b"PAR1")
    for output in (tmp_path / place, tmp_path / "elsewhere"):
        records, passed = shown(tmp_path / "photos", FIXED, output)
        assert len(records) == 8 and passed.total("files") == 6
        assert ("the job's own output is no input" in why(passed)) == (output == tmp_path / place)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "photos")
    assert len(shown(link, FIXED, tmp_path / place)[0]) == 8


def test_labels_can_be_an_input(tmp_path):
    """What is named is read, whoever wrote it."""
    for folder in ("labels", "runs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "runs" / "x.json").write_text("{}")
    write_uris(tmp_path / "labels" / "a.parquet")
    assert len(shown(tmp_path / "labels", ASKED)[0]) == 4
    with pytest.raises(UsageError, match="another job's output is no input"):
        shown(tmp_path, ASKED)


def write_img2dataset(folder: Path, as_files: bool = False) -> Path:
    for shard in ("00000", "00001"):
        (folder / shard if as_files else folder).mkdir(parents=True, exist_ok=True)
        names = [f"{shard}000{i}.{end}" for i in range(2) for end in ("jpg", "json", "txt")]
        if as_files:
            for name in names:
                (folder / shard / name).write_bytes(JPEG)
        else:
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for name in names:
                    add(tar, name, {"jpg": JPEG, "txt": b"q", "json": b'{"a": 1}'}[name.rpartition(".")[2]])
        write_uris(folder / f"{shard}.parquet", [{"key": "0", "url": "https://x/0", "status": "success"}])
        (folder / f"{shard}_stats.json").write_text("{}")
    return folder


@pytest.mark.parametrize("as_files", [False, True])
def test_the_folder_of_img2dataset(tmp_path, as_files):
    records, passed = shown(write_img2dataset(tmp_path / "laion", as_files))
    assert len(records) == 4 and errors(records) == [None] * 4
    counts = why(passed)
    assert counts.pop("img2dataset's own records stand beside its images") == 2
    assert counts.pop("img2dataset's statistics are no rows") == 2
    assert sum(counts.values()) == (8 if as_files else 0)


@pytest.mark.parametrize("on_s3", [False, True])
def test_patterns(request, tmp_path, on_s3):
    write_img2dataset(tmp_path / "in" / "laion")
    write_images(tmp_path / "in" / "photos" / "deep")
    write_images(tmp_path / "in" / "photos" / "[1]{a,b}*")
    base, storage = f"{tmp_path}/in", Storage()
    if on_s3:
        s3 = request.getfixturevalue("s3")
        base = f"s3://{s3.new_bucket()}"
        s3.upload(tmp_path / "in", base)
        storage = Storage.from_environment(environment=s3.environment)

    def found(pattern: str) -> list[str]:
        return ids(shown(f"{base}/{pattern}", FIXED, storage=storage)[0])

    keys = ["000000000", "000000001", "000010000", "000010001"]
    for pattern in ("laion/*.tar", "laion/{00000..00001}.tar", "laion/{00001,00000}.tar", "l*/0000?.tar", "**/*.tar",
                    "*/*[01].tar", "lai*"):  # fmt: skip
        assert found(pattern) == keys, pattern
    assert found("laion/{00001..00001}.tar") == keys[2:]
    assert found("photos/**/*.jpg") == sorted(
        f"{folder}/{name}" for folder in ("deep", "[1]{a,b}*") for name in NAMES if name.endswith(".jpg")
    )
    assert found("photos/[1]{a,b}*") == sorted(NAMES), "a name is taken as it stands, if it is there"
    for pattern, said in (
        ("laion/*.zip", "nothing that the pattern matches"),
        ("none/*.tar", "nothing that the pattern matches"),
        ("laion/{00000..00003}.tar", r"names 4 files, of which 2 aren't there: the first is .*/laion/00002\.tar"),
    ):
        with pytest.raises(UsageError, match=said):
            found(pattern)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a}b{1,2}", ["{a}b1", "{a}b2"]),
        ("{a", ["{a"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
    ],
)
def test_braces(text, names):
    assert sorted(expand_braces(text)) == sorted(names)


@pytest.mark.parametrize("text", ["{0..9999999999}", "{0..9999}{0..9999}"])
def test_braces_that_stand_for_too_much(text):
    with pytest.raises(UsageError, match="100,000 names"):
        expand_braces(text)


def test_odd_files_of_a_folder(tmp_path):
    """Links in circles, links to nothing, pipes and names that aren't UTF-8."""
    write_images(tmp_path / "in")
    (tmp_path / "in" / "up").symlink_to(".")
    (tmp_path / "in" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    (tmp_path / "in" / "endless.jpg").symlink_to("/dev/zero")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/n\xff.jpg")).write_bytes(JPEG)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "b.jpg").write_bytes(JPEG)
    (tmp_path / "in" / "sub").symlink_to("../beside")
    records, passed = shown(tmp_path / "in")
    rows = Fetcher(Storage(), 10**6).fetch_rows(row_of(record, FIXED) for record in records)
    found = {row.id: row.reject and row.reject.error for row in rows}
    assert found == dict.fromkeys(NAMES) | {
        "gone.jpg": "image_not_found", "self.jpg": "image_fetch_failed", "n\ufffd.jpg": "bad_row",
        "sub/b.jpg": "image_refused",
    }  # fmt: skip
    assert passed.total("files") == 2 and passed.total("links") == 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.tar", "rows.parquet"])
def test_a_link_to_a_device_is_no_table(tmp_path, name):
    """It would be read for ever."""
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=rf"holds 1 file, because a pipe, a socket .*{name}\)"):
        open_source(str(tmp_path), Storage(), FIXED)


def test_a_cameras_photos_and_files_without_extensions(tmp_path):
    (tmp_path / "_DSC0001.JPG").write_bytes(JPEG)
    assert ids(shown(tmp_path)[0]) == ["_DSC0001.JPG"]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(JPEG)
    (tmp_path / "blobs" / "0a1c").write_bytes(b"neither")
    records, passed = shown(tmp_path / "blobs")
    assert ids(records) == ["0a1b"] and passed.total("files") == 1


# JSON in any layout


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(ROWS, indent=2).encode(), 4),
        (json.dumps(ROWS).encode(), 4),
        ("".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-16"), 4),
        ("".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-32-le"), 4),
        ("\n\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), 4),
        (" ".join(json.dumps(row) for row in ROWS).encode(), 4),
        ("\r".join(json.dumps(row) for row in ROWS).encode(), 4),
        (json.dumps(ROWS[0], indent=1).encode(), 1),
        (b"{broken\n" + "".join(json.dumps(row) + "\n" for row in ROWS).encode(), 4),
        (json.dumps(ROWS[0]).encode() + b" junk\n" + json.dumps(ROWS[1]).encode(), 1),
        (json.dumps(ROWS).encode("utf-16-be"), 4),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x"])
def test_json_is_read_whatever_its_layout_and_name(tmp_path, text, count, name):
    (tmp_path / name).write_bytes(text)
    if name != "x.jsonl" and text.lstrip(b"\xff\xfe\0")[:1] not in (b"{", b"["):
        pytest.skip("not told by its first bytes")
    assert errors(shown(tmp_path / name, ASKED)[0], ASKED).count(None) == count


COCO = {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(6)], "annotations": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            json.dumps(COCO, indent=2).encode(),
            r"is one JSON object, with 'images', 'annotations'.*\.\[\"images\"\]\[\]",
        ),
        (json.dumps(COCO).encode(), "is one JSON object"),
        (json.dumps({"a/b": {"caption": "c"}, "a/c": {"caption": "d"}}, indent=1).encode(), "to_entries"),
        (b"id,image\n1,2\n" * 300, r"its first 100 lines: no JSON"),
        ("".join(json.dumps(row | {"q": "é"}, ensure_ascii=False) + "\n" for row in ROWS).encode("latin-1"), "iconv"),
        (b"<html>\n<body>", "no JSON"),
        (b'{"id": 1,\n"image": ', "nothing after record 0 can be read as JSON"),
        (b'[{"id": 1, "ima', "nothing after record 0 can be read as JSON"),
        (b'{"id": 1},\n{"id": 2},\n', "no JSON"),
    ],
)
def test_a_file_of_which_nothing_is_a_row_is_a_usage_error(tmp_path, text, said):
    (tmp_path / "x.jsonl").write_bytes(text)
    with pytest.raises(UsageError, match=said):
        shown(tmp_path / "x.jsonl", ASKED)


def test_a_bad_file_among_good_ones_is_rejected_row_by_row(tmp_path):
    (tmp_path / "a.jsonl").write_text("neither\n")
    write_jsonl(tmp_path / "b.jsonl")
    assert errors(shown(tmp_path, ASKED)[0], ASKED) == ["bad_row", None, None, None, None]


def test_one_object_larger_than_what_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("adafv.pipeline.sources.units.LINE_LIMIT", 2**20)
    large = {"images": [{"id": i, "file_name": "x" * 1000} for i in range(3000)]}
    for indent in (None, 1):
        (tmp_path / "x.json").write_text(json.dumps(large, indent=indent))
        with pytest.raises(UsageError, match="more than 1048576 bytes"):
            shown(tmp_path / "x.json", ASKED)


# Links and roots


def write_snapshot(folder: Path) -> Path:
    """A Hugging Face cache: links into a store beside them."""
    (folder / "blobs").mkdir(parents=True)
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in NAMES:
        (folder / "blobs" / name[::-1]).write_bytes(SOUND[name])
        (snapshot / name).symlink_to(f"../../blobs/{name[::-1]}")
    return snapshot


def fetched(uri: Path, root: Path | None = None, allow: str | None = None) -> list[Row]:
    columns = replace(FIXED, image_root=None if root is None else str(root))
    check_roots(columns.image_root, allow, Storage())
    records, _ = shown(uri, columns)
    return Fetcher(Storage(), 10**7, allow_local=allow).fetch_rows(row_of(record, columns) for record in records)


def advised(rows: list[Row]) -> str:
    assert {row.reject.error for row in rows if row.reject} == {"image_refused"}
    messages = {row.reject.message.partition("; add --allow-local ")[2] for row in rows if row.reject}
    assert len(messages) == 1 and all(messages)
    return messages.pop()


def dvc(folder: Path) -> Path:
    """Each file of the store in a folder of its own."""
    (folder / "data").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        store = folder / ".dvc" / "cache" / f"{number:02d}"
        store.mkdir(parents=True)
        (store / "x").write_bytes(SOUND[name])
        (folder / "data" / name).symlink_to(store / "x")
    return folder / "data"


@pytest.mark.parametrize("make", [write_snapshot, dvc])
def test_the_advice_for_links_works_to_the_letter(tmp_path, make: Callable[[Path], Path]):
    folder = make(tmp_path / "set")
    allowed = advised(fetched(folder))
    assert allowed.startswith(f"{tmp_path}/set/")
    assert [row.reject for row in fetched(folder, allow=allowed)] == [None] * 4
    assert [row.reject for row in fetched(folder, root=tmp_path / "set")] == [None] * 4, "as --image-root does"


def test_links_into_two_stores(tmp_path):
    """What is allowed already stays allowed when the advice is followed."""
    snapshot = write_snapshot(tmp_path / "set")
    (tmp_path / "set" / "more").mkdir()
    (tmp_path / "set" / "more" / "x").write_bytes(JPEG)
    (snapshot / "zz.jpg").symlink_to("../../more/x")
    rows = fetched(snapshot, allow=str(tmp_path / "set" / "blobs"))
    assert sum(row.reject is None for row in rows) == 4
    assert [row.reject for row in fetched(snapshot, allow=advised(rows))] == [None] * 5


def test_paths_above_the_tables_folder(tmp_path):
    """As LLaVA's annotations beside images/ are."""
    write_images(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    rows = [row | {"image": f"../images/{row['image']}"} for row in ROWS]
    path = write_jsonl(tmp_path / "annotations" / "rows.jsonl", rows)
    allowed = advised(fetched(path))
    assert allowed == f"{tmp_path}/images"
    assert [row.reject for row in fetched(path, allow=allowed)] == [None] * 4


def test_a_root_that_is_not_there(tmp_path):
    path = write_jsonl(write_images(tmp_path / "in") / "rows.jsonl")
    for root, said in ((tmp_path / "none", "there is nothing"), (path, "it is no folder")):
        with pytest.raises(UsageError, match=f"--image-root {root}: {said}"):
            fetched(path, root=root)
        with pytest.raises(UsageError, match=r"--allow-local .*: there is no such local folder"):
            fetched(path, allow=str(root))
    path.unlink()
    with pytest.raises(UsageError, match="leave --image-root out"):
        fetched(tmp_path / "in", root=write_images(tmp_path / "other"))


def test_a_root_that_is_not_there_on_s3(s3):
    storage = Storage.from_environment(environment=s3.environment)
    with pytest.raises(UsageError, match="there is nothing"):
        check_roots(f"s3://{s3.new_bucket()}/none", None, storage)


def test_names_that_would_be_options_of_a_uri(tmp_path):
    """As in gs://bucket/a.jsonl?endpoint_override=… pyarrow would ask that server, with the job's keys."""
    for name in ("a b.jsonl", "a?endpoint_override=x&default_bucket_location=.jsonl", "b#.jsonl", "c%20.jsonl"):
        (tmp_path / name).touch()
    passed = PassedOver()
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert list_files(store, "", "gs://bucket", passed) == ["a b.jsonl"]
    assert [(one.count, one.why) for one in passed] == [(3, "in this store no name with ?, # or % can be opened")]
