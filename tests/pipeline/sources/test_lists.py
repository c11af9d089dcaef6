"""`--input @list.txt`: the files that a list names, local and on S3."""

from __future__ import annotations

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.sources import discovery
from adafv.pipeline.sources.listing import Pattern
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import ROWS, write_images, write_jsonl
from tests.pipeline.pictures import jpeg
from tests.pipeline.sources.test_discovery import FIXED, check, rows_of


def test_tables(tmp_path, s3):
    """Relative to the list, in the names' order; what isn't listed isn't read."""
    folder = write_images(tmp_path / "in")
    for number in range(4):
        write_jsonl(folder / f"{number}.jsonl", ROWS[number : number + 1])
    write_jsonl(folder / "other.jsonl", [{"id": "other"}])
    (tmp_path / "list.txt").write_text("in/2.jsonl\n\nin/0.jsonl\r\n" + f"{folder}/3.jsonl\nin/1.jsonl")
    check(rows_of(f"@{tmp_path}/list.txt"))
    bucket = s3.new_bucket()
    s3.upload(folder, f"s3://{bucket}/in")
    (tmp_path / "list.txt").write_text("".join(f"s3://{bucket}/in/{number}.jsonl\n" for number in range(4)))
    s3.upload(tmp_path, f"s3://{bucket}/up")
    storage = Storage.from_environment(environment=s3.environment)
    check(rows_of(f"@{tmp_path}/list.txt", storage))
    check(rows_of(f"@s3://{bucket}/up/list.txt", storage))


def test_lines_that_name_nothing_new(tmp_path):
    """A file is read once, and its name may have a character that some take for the end of a line."""
    for name in ("a.jpg", "b\u2028c.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "list.txt").write_text("\ufeffa.jpg\r\nb\u2028c.jpg\na.jpg\n./a.jpg\n\n", newline="")
    source = discovery.open_source(f"@{tmp_path}/list.txt", Storage(), FIXED)
    assert [unit.members for unit in source.units] == [("a.jpg", "b\u2028c.jpg")]
    assert [(one.what, one.count) for one in source.passed] == [("lines", 2)]


def test_images_have_their_path_as_id(tmp_path):
    for sub in ("a", "b"):
        write_images(tmp_path / sub)
    (tmp_path / "list.txt").write_text("a/plain.jpg\nb/plain.jpg\n")
    assert [row.id for row in rows_of(f"@{tmp_path}/list.txt", wanted=FIXED)] == ["a/plain.jpg", "b/plain.jpg"]


def test_lines_that_lead_out_of_the_list_s_folder(tmp_path):
    for name in ("lists/a.jpg", "images/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "lists" / "list.txt").write_text("a.jpg\n../images/b.jpg\n../images/../images/b.jpg\n")
    source = discovery.open_source(f"@{tmp_path}/lists/list.txt", Storage(), FIXED)
    assert [unit.members for unit in source.units] == [("images/b.jpg", "lists/a.jpg")]
    assert [(one.what, one.count) for one in source.passed] == [("lines", 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no lines"),
        ("gone.jpg\nalso/gone.jpg\n", "names 2 files, of which 2 aren't there"),
        ("s3://a/x.jpg\ns3://b/x.jpg\n", "must lie in one folder or bucket"),
        ("s3://a/x.jpg\n/x.jpg\n", "must lie in one folder or bucket"),
        ("hf://datasets/a/b/x.parquet\n", "not on the Hub"),
    ],
)
def test_lists_that_name_nothing(tmp_path, text, said):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=said):
        discovery.open_source(f"@{tmp_path}/list.txt", Storage(), FIXED)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="can't be read"):
        discovery.open_source(f"@{tmp_path}/none.txt", Storage(), FIXED)


def test_long_lists_are_looked_up():
    pattern = Pattern.listed("@l", "/l", [f"a/{number % 100}/{number}.jpg" for number in range(20_000)])
    assert pattern.folder == "/a"
    assert sum(pattern.reach(f"{number % 100}/x{number}.jpg") for number in range(20_000)) == 0
    assert pattern.reach("7") == 1 and pattern.reach("7/107.jpg") == 2
