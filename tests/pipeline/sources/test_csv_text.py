"""CSV as spreadsheets and scripts write it."""

from __future__ import annotations

import csv
import gzip
import io

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.sources import discovery
from adafv.pipeline.store.storage import Storage
from tests.pipeline.inputs import NAMES, ROWS, write_images
from tests.pipeline.sources.test_discovery import FIXED, check, rows_of

HARD = 'a "quoted", text;\nover two lines\u2028and\ta tab é'


def text(rows: list[dict], **dialect: object) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialects_and_encodings(tmp_path, delimiter, encoding):
    folder = write_images(tmp_path)
    rows = [row | {"question": HARD, "more": ""} for row in ROWS]
    (folder / "rows.csv").write_bytes(text(rows, delimiter=delimiter).encode(encoding))
    found = rows_of(folder / "rows.csv")
    assert [row.prompt for row in found] == [HARD.replace("\r\n", "\n")] * 4 and not any(row.reject for row in found)


def test_packed_and_by_a_pattern(tmp_path):
    folder = write_images(tmp_path)
    (folder / "a.tsv.gz").write_bytes(gzip.compress(text(ROWS[:2], delimiter="\t").encode()))
    (folder / "b.tsv.gz").write_bytes(gzip.compress(text(ROWS[2:], delimiter="\t").encode()))
    check(rows_of(f"{folder}/*.tsv.gz"))


def test_in_a_folder_it_is_nobodys(tmp_path):
    folder = write_images(tmp_path)
    (folder / "rows.csv").write_text(text(ROWS))
    source = discovery.open_source(str(folder), Storage(), FIXED)
    assert [len(unit.members) for unit in source.units] == [len(NAMES)]
    assert [one.why for one in source.passed] == ["a .csv may be anything in a folder: to be read it has to be named"]


def test_bad_rows_cost_themselves(tmp_path):
    """A missing value, one too many, one that isn't UTF-8, an empty line; a quote that never ends takes the rest."""
    folder = write_images(tmp_path)
    lines = [b"id,image,question", b"1,plain.jpg,w1", b"2,plain.jpg", b"3,plain.jpg,w1,w2", b"", b"4,plain.jpg,\xff"]
    (folder / "rows.csv").write_bytes(b"\n".join([*lines, b"5,plain.jpg,", b"6,plain.jpg,w6", b'7,plain.jpg,"w7']))
    found = rows_of(folder / "rows.csv")
    errors = [row.reject and row.reject.error for row in found]
    assert errors == [None, "bad_row", "bad_row", "bad_row", "prompt_incomplete", None, "bad_row"]
    assert [row.id for row in found] == ["1", None, None, None, "5", "6", None]


def test_a_file_whose_rest_is_zeros(tmp_path):
    """As after a download that was broken off, in a row's last value: it is no question."""
    folder = write_images(tmp_path)
    (folder / "rows.csv").write_bytes(b"id,image,question\n1,plain.jpg,w1\n2,plain.jpg,w" + bytes(1000))
    good, bad = rows_of(folder / "rows.csv")
    assert good.reject is None and bad.reject and bad.reject.error == "bad_row" and "zeros" in bad.reject.message


def test_no_row_is_swallowed_by_the_question_of_another(tmp_path):
    folder = write_images(tmp_path)
    lines = [
        "id,image,question",
        '1,plain.jpg,"w1',
        '2,plain.jpg,"w2"',
        "3,plain.jpg,w3",
        '4,plain.jpg,"w4',
        "5,plain.jpg,w5",
    ]
    (folder / "rows.csv").write_text("\n".join(lines))
    found = rows_of(folder / "rows.csv")
    assert [row.id for row in found] == [None, "3", None]
    told = [row.reject.message.partition(" can't")[0] for row in found if row.reject]
    assert told == ["lines 2 to 3", "lines 5 to 6"]


def test_headers_as_spreadsheets_write_them(tmp_path):
    """Empty lines above, a name over two lines, and two columns without a name."""
    (tmp_path / "rows.csv").write_text('\n\r\nid,image,"in two\nlines",question,,\n1,a,x,w1,,\n2,a,x,"w2"?,,\n')
    good, bad = rows_of(tmp_path / "rows.csv")
    assert (good.id, good.prompt) == ("1", "w1")
    assert bad.reject and bad.reject.message.startswith("lines 6 to 6 can't be read as a row")
    (tmp_path / "rows.csv").write_text('id,image,"question\n1,a,w1\n')
    [row] = rows_of(tmp_path / "rows.csv")
    assert row.reject and row.reject.error == "source_unreadable" and "unexpected end of data" in row.reject.message


def test_columns_of_one_name_and_none(tmp_path):
    (tmp_path / "rows.csv").write_text("id,image,image\n1,a,b\n")
    found = rows_of(tmp_path / "rows.csv")
    assert [row.reject.error for row in found if row.reject] == ["source_unreadable"]
    (tmp_path / "rows.csv").write_text("name\n1\n")
    with pytest.raises(UsageError, match="no column 'id'"):
        rows_of(tmp_path / "rows.csv")
