"""Texts beside the images of a folder are columns of their rows, as in tars."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.sources import sidecars, units
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import Row, row_of
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from tests.pipeline.pictures import SOUND
from tests.pipeline.sources.test_passed import ASKED, FIXED, shown, why

JPEG = SOUND["plain.jpg"]


def asking(*names: str) -> Columns:
    prompt = " ".join(f"{{{name}}}" for name in names)
    return Columns(id="id", image="image", question="question", prompt=prompt, prompt_columns=names)


def folder(place: Path, **files: object) -> Path:
    """Files by name, a double underscore for each dot: an image's bytes, a text, or an object."""
    place.mkdir()
    for name, content in files.items():
        path = place / name.replace("__", ".")
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return place


def rows_of(place: object, columns: Columns, storage: Storage | None = None) -> list[Row]:
    records, _ = shown(place, columns, storage=storage)
    return [row_of(record, columns) for record in records]


def test_texts_and_objects_are_columns(tmp_path):
    place = folder(
        tmp_path / "in", a__jpg=JPEG, a__txt=" a cat \n", a__json={"n": 3, "id": "x", "image": "y"}, b__png=JPEG,
        b__JSON={"n": 4, "txt": "a dog"}, c__jpg=JPEG, d__txt="nobody's", a__md="no text",
    )  # fmt: skip
    a, b, c = rows_of(place, asking("txt", "n"))
    assert (a.id, a.prompt, a.images[0].name) == ("a.jpg", "a cat 3", "a.jpg") and b.prompt == "a dog 4"
    assert c.reject is not None and c.reject.error == "prompt_incomplete"
    assert c.reject.message.startswith("column 'txt' is null or absent")
    [fetched] = Fetcher(Storage(), 10**7).fetch_rows([a])
    assert fetched.images[0].data == JPEG
    _, passed = shown(place, asking("txt", "n"))
    text = "a .txt is read only beside its image, and if an option names what it holds"
    assert why(passed) == {text: 1, "the format is none that is known": 1}


def test_a_text_is_the_question_unless_an_object_has_it(tmp_path):
    files = {"a__jpg": JPEG, "a__txt": "one", "b__jpg": JPEG, "b__txt": "two", "b__json": {"question": "three"}}
    assert [row.prompt for row in rows_of(folder(tmp_path / "in", **files), ASKED)] == ["one", "three"]


def test_on_s3_as_well(s3):
    bucket, storage = s3.new_bucket(), Storage.from_environment(environment=s3.environment)
    for name, data in {"a.jpg": JPEG, "a.json": b'{"alt": "x"}'}.items():
        open_output(f"s3://{bucket}/p", storage).put(name, data)
    assert [row.prompt for row in rows_of(f"s3://{bucket}/p", asking("alt"), storage)] == ["x"]


def test_two_images_may_share_a_text(tmp_path):
    place = folder(tmp_path / "in", a__jpg=JPEG, a__png=JPEG, a__txt="one")
    assert [row.prompt for row in rows_of(place, ASKED)] == ["one", "one"]


@pytest.mark.parametrize(
    ("columns", "over"), [(FIXED, {".txt", ".json"}), (asking("txt"), {".json"}), (asking("n"), {".txt"})]
)
def test_what_nobody_asks_for_is_not_read(tmp_path, monkeypatch, columns, over):
    place = folder(tmp_path / "in", a__jpg=JPEG, a__txt="one", a__json={"n": 1})
    records, passed = shown(place, columns)
    assert len(records) == 1 and {Path(one.example).suffix for one in passed} == over
    [unit] = open_source(str(place), Storage(), columns).units
    monkeypatch.setattr(sidecars, "_content", lambda *_: 1 / 0)
    assert len(list(read_unit(unit, Storage(), columns, images=False))) == 1, "nor when rows are planned"


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("{broken", "bad_row", "a.json: no JSON"),
        ("[1]", "bad_row", "a.json: a JSON list, not an object"),
        ({"n": "x" * 100}, "bad_row", "a.json has more than 50 bytes"),
        ({"n": 1, "question": ["a", "b"]}, "bad_row", "a file beside an image asks one question"),
        (None, "source_unreadable", "a.json can't be read: FileNotFoundError"),
    ],
)
def test_a_bad_one_rejects_its_image_alone(tmp_path, monkeypatch, content, error, said):
    files = {"a__jpg": JPEG, "a__json": content or {}, "b__jpg": JPEG, "b__json": {"n": 2, "question": "q"}}
    place, columns = folder(tmp_path / "in", **files), asking("n", "question")
    monkeypatch.setattr(units, "LINE_LIMIT", 50)
    [unit] = open_source(str(place), Storage(), columns).units
    if content is None:
        (place / "a.json").unlink()
    bad, good = (row_of(record, columns) for record in read_unit(unit, Storage(), columns))
    assert bad.id == "a.jpg" and good.prompt == "2 q"
    assert bad.reject is not None and bad.reject.error == error and said in bad.reject.message


@pytest.mark.parametrize("where", [None, "txt == 'a cat'"])
def test_a_name_that_is_not_utf8_costs_its_image_alone(tmp_path, where):
    place, columns = folder(tmp_path / "in", ok__jpg=JPEG, ok__txt="a cat"), replace(asking("txt"), where=where)
    for name in (b"caf\xe9.jpg", b"caf\xe9.txt"):
        (place / os.fsdecode(name)).write_bytes(b"a cat")
    bad, good = rows_of(place, columns)
    assert (bad.id, bad.reject and bad.reject.error) == ("caf\ufffd.jpg", "bad_row") and good.prompt == "a cat"


def test_with_where_a_text_that_was_replaced_ends_its_unit(tmp_path):
    """An image may be a row or none then, and the rows behind it have their verdicts by number."""
    files = {f"{name}__{kind}": JPEG if kind == "jpg" else {"n": 1} for name in "abc" for kind in ("jpg", "json")}
    columns = replace(asking("n"), where="n == 1")
    place = folder(tmp_path / "in", **files)
    [unit] = open_source(str(place), Storage(), columns).units
    assert [record.columns["id"] for record in read_unit(unit, Storage(), columns, images=False)] == list(unit.members)
    while os.stat(place / "b.json").st_ctime_ns <= unit.found_at:  # a disk's clock may move in steps
        (place / "b.json").write_text('{"n": 2}')
    os.utime(place / "b.json", (0, 0))  # as a copy may keep it
    for images in (False, True):
        first, rest = read_unit(unit, Storage(), columns, images=images)
        assert first.columns["id"] == "a.jpg" and rest.reject is not None
        assert rest.reject.error == "source_unreadable" and "b.json can't be read" in rest.reject.message
    os.utime(place / "b.json", (2**33, 2**33))  # as an archive from elsewhere may bring it
    [unit] = open_source(str(place), Storage(), columns).units
    assert [record.columns["id"] for record in read_unit(unit, Storage(), columns)] == ["a.jpg", "c.jpg"]


def test_a_column_that_none_has_is_a_usage_error(tmp_path):
    place = folder(tmp_path / "in", a__jpg=JPEG, a__txt="one", a__json={"n": 1})
    with pytest.raises(UsageError, match=r"names alt, which .* doesn't have; it has id, image, n"):
        shown(place, asking("alt"))
    with pytest.raises(UsageError, match="no column 'n'; --conversations-column must be one of id, image"):
        shown(place, replace(ASKED, conversations="n"))


def test_choices_may_stand_there(tmp_path):
    columns = replace(FIXED, choices="labels")
    place = folder(tmp_path / "in", a__jpg=JPEG, a__json={"labels": ["x", "y"]})
    assert [row.choices for row in rows_of(place, columns)] == [("x", "y")]
