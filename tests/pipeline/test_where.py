"""Which rows an expression picks, in every format; that it can do nothing else; and columns that labels take over."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.passed import PassedOver
from adafv.pipeline.planning.worklist import scan_unit
from adafv.pipeline.sources import discovery, formats
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns, partition
from adafv.pipeline.sources.rows import row_of
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.where import columns_where, holds, parse_where
from jobs.label import main
from tests.pipeline.inputs import NAMES, ROWS, write_all, write_images, write_jsonl, write_tar
from tests.pipeline.pictures import SOUND

COLUMNS = Columns(id="id", image="image", question="question", prompt="Describe.", prompt_columns=())
ROW = {
    "w": 600,
    "caption": "a cat",
    "none": None,
    "nan": float("nan"),
    "day": date(2026, 1, 2),
    "odd name": "x",
    "t": True,
}


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("w >= 512 and 'cat' in caption", True),
        ("256 < w <= 600", True),
        ("not (w == 600) or caption != 'a cat'", False),
        ("w in [1, 600]", True),
        ("caption not in ('a', 'b')", True),
        ("none == 'a'", False),
        ("none != 'a'", False),
        ("5 < none", False),
        ("nan < 1 or nan >= 1", False),
        ("none in ['a']", False),
        ("'a' in none", False),
        ("none", False),
        ("none is None and nan is None and w is not None", True),
        ("day >= '2026-01-01' and day < '2026-02'", True),
        ("`odd name` == 'x'", True),
        ("t and w > -1", True),
        ("absent == 1", False),
        ("none not in ['a']", False),
        ("'x' not in none", False),
        ("none in caption", False),
        ("not none == 'a'", False),
        ("none == 'a' or w == 600", True),
        ("none == 'a' and w == 600", False),
        ("caption == 'a cat' and caption != 'use `ls`'", True),
        ("w in [None, 600]", True),
    ],
)
def test_what_holds(expression, found):
    assert holds(expression, ROW) is found


@pytest.mark.parametrize(
    "expression", ["w < 'a'", "w == '600'", "caption != 1", "w in ['600']", "1 in caption", "-caption == 1"]
)
def test_texts_and_numbers_are_not_compared(expression):
    with pytest.raises(TypeError):
        holds(expression, ROW)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('x')", "w.real == 1", "w[0] == 1", "len(caption) > 2", "1 == 1", "lambda: w",
        "w ** 9 == 1",
        "[x for x in w]", "f'{w}' == '1'", "w if w else 1", "(w := 1)", "w = 1", "w == b'x'", "w == ...", "", "w >",
        "caption is 'a cat'", "w is not 600", "w is t",
        "(" * 500 + "w" + ")" * 500, "*w", "{w: 1} == w", "await w", "w == 1j",
    ],
)  # fmt: skip
def test_nothing_else_is_evaluated(expression):
    with pytest.raises(ValueError, match="an expression of column names"):
        parse_where(expression)
    with pytest.raises(UsageError, match=r"--where is .* it must be an expression"):
        JobOptions(input=("x",), output="y", where=expression)


def test_columns_of_an_expression():
    assert columns_where("a > 1 and `b c` in ['x'] and a < d") == ("a", "b c", "d")


def found(uri: object, wanted: Columns) -> tuple[list[str | None], Counter[str]]:
    """Ids, and what was passed over; planning sees the same rows."""
    units = discovery.open_source(str(uri), Storage(), wanted).units
    passed = PassedOver()
    rows = [row_of(r, wanted) for unit in units for r in read_unit(unit, Storage(), wanted, passed=passed)]
    scans = [scan_unit(unit, Storage(), wanted) for unit in units]
    assert sum(len(scan.digests) for scan in scans) == len(rows)
    planned = PassedOver(one for scan in scans for one in scan.passed)
    return [row.id for row in rows], Counter({one.why: one.count for one in planned})


@pytest.mark.parametrize("name", ["uris", "bytes", "structs", "jsonl", "tar"])
def test_every_format(tmp_path, name):
    wanted = replace(COLUMNS, where="question == 'w1 w2' or id in ['r3']")
    ids, passed = found(write_all(tmp_path)[name], wanted)
    assert ids == ["r1", "r3"] and passed == {"--where doesn't hold for them": 2}


def test_a_folder_of_images(tmp_path):
    ids, passed = found(write_images(tmp_path / "in"), replace(COLUMNS, where="'.jpg' in id"))
    assert ids == ["cmyk.jpg", "plain.jpg"] and passed.total() == 2


def test_what_lies_beside_images(tmp_path):
    folder = write_images(tmp_path / "in")
    for number, name in enumerate(NAMES):
        (folder / name).with_suffix(".json").write_text(json.dumps({"n": number}))
    wanted = replace(COLUMNS, where="n >= 2", carried=("n",))
    ids, passed = found(folder, wanted)
    assert ids == ["cmyk.jpg", "palette.gif"] and passed.total() == 2


def test_samples_of_a_tar_without_an_image(tmp_path):
    """They are asked like all others, unless what could tell is damaged."""
    path = write_tar(tmp_path / "rows.tar", {"s4.json": b'{"n": 1}', "s5.json": b'{"n": 2}', "s6.json": b"{broken"})
    (unit,) = discovery.open_source(str(path), Storage(), COLUMNS).units
    wanted, passed = replace(COLUMNS, where="n > 1"), PassedOver()
    rows = [row_of(record, wanted) for record in read_unit(unit, Storage(), wanted, passed=passed)]
    assert [(row.id, row.reject and row.reject.error) for row in rows] == [("s5", "image_missing"), ("s6", "bad_row")]
    assert [str(one.count) + one.why for one in passed] == ["5--where doesn't hold for them"]
    assert len(scan_unit(unit, Storage(), wanted).digests) == 2


def test_row_groups_without_a_row_are_read_in_the_expressions_columns_alone(tmp_path, monkeypatch):
    """Every eighth row is wanted, and groups have four."""
    rows = [{"id": f"r{i}", "image": SOUND["plain.jpg"], "n": i % 8} for i in range(32)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=4)
    wanted = replace(COLUMNS, where="n == 5")
    (unit,) = discovery.open_source(str(tmp_path / "rows.parquet"), Storage(), wanted).units
    groups = []
    monkeypatch.setattr(
        formats, "_read_group", lambda file, group, columns, *rest, real=formats._read_group: (
            groups.append((group, "image" in columns)) or real(file, group, columns, *rest)
        ),
    )  # fmt: skip
    assert [record.columns["id"] for record in read_unit(unit, Storage(), wanted)] == ["r5", "r13", "r21", "r29"]
    assert sorted(group for group, images in groups if images) == [1, 3, 5, 7]
    groups.clear()
    idle = [False, True, False, True]
    assert [r.columns.get("id") for r in read_unit(unit, Storage(), wanted, idle=idle)] == ["r5", None, "r21", None]
    assert sorted(group for group, images in groups if images) == [1, 5]


def test_what_can_not_be_compared_rejects_the_row(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [row | {"n": n} for row, n in zip(ROWS, (1, "x", 3, 0), strict=True)])
    (unit,) = discovery.open_source(str(path), Storage(), replace(COLUMNS, where="n > 0")).units
    rows = [row_of(r, COLUMNS) for r in read_unit(unit, Storage(), replace(COLUMNS, where="n > 0"))]
    assert [(row.id, row.reject and row.reject.error) for row in rows] == [
        ("r0", None),
        ("r1", "bad_row"),
        ("r2", None),
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (replace(COLUMNS, where="width > 5"), "no column 'width'; --where must be one of"),
        (replace(COLUMNS, carried=("licence",)), "no column 'licence'; --columns must be one of"),
        (replace(COLUMNS, carried=("image",)), "--where and --columns take no bytes"),
    ],
)
def test_columns_that_are_not_there(tmp_path, wanted, said):
    with pytest.raises(UsageError, match=said):
        discovery.open_source(str(write_all(tmp_path)["bytes"]), Storage(), wanted)


def test_folders_may_say_what_a_column_is():
    assert partition("s3://b/year=2024/lang=en%20GB") == {"year": "2024", "lang": "en GB"}
    assert partition("/a/zip=00501/x=__HIVE_DEFAULT_PARTITION__") == {"zip": "00501", "x": None}


def test_a_job_labels_what_is_wanted_and_labels_have_the_columns(ray_local, tiny_model, tmp_path):
    """From folders as Hive and Spark name them; the record counts the rest; and a second run has nothing to do."""
    for year in (2023, 2024):
        folder = tmp_path / "in" / f"year={year}"
        folder.mkdir(parents=True)
        rows = [
            {
                "id": f"{year}-{i}",
                "image": SOUND["plain.jpg"],
                "model": f"m{i}",
                "n": i,
                "boxes": [[1, 2]],
                "at": date(2026, 1, i + 1),
            }
            for i in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    arguments = [
        "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(tiny_model),
        "--prompt", "w1 {year}", "--max-new-tokens", "2", "--where", "year >= '2024' and n != 1", "--run-id",
    ]  # fmt: skip
    columns = ["--columns", "year,n,model,boxes,at"]
    assert main([*arguments, "a", *columns]) == 0
    rows = sorted(ds.dataset(tmp_path / "out/labels").to_table().to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == ["2024-0", "2024-2", "2024-3"] and rows[0]["prompt"] == "w1 2024"
    carried = {"year": "2024", "n": "2", "input_model": "m2", "boxes": "[[1, 2]]", "at": "2026-01-03"}
    assert {name: rows[1][name] for name in carried} == carried and rows[1]["model"] == str(tiny_model)
    (passed,) = json.loads((tmp_path / "out/runs/a.json").read_text())["passed_over"]
    assert passed["what"] == "rows" and passed["count"] == 5
    assert main([*arguments, "b", *columns]) == 0
    assert json.loads((tmp_path / "out/runs/b.json").read_text())["counts"]["labelled"] == 0
    assert main([*arguments, "c"]) == 2, "other columns are labels of another kind"
