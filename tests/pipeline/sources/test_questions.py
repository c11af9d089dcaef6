"""Rows that ask several questions: which records they are, in every format and every pass, and what is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.planning.worklist import scan_unit
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import discovery, formats, units
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.questions import MARKER, exchanges_of, parts_of
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record
from adafv.pipeline.sources.rows import Row, from_table, row_of, to_table
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from adafv.turn import Turn
from tests.pipeline.inputs import add, write_jsonl


def named(prompt: str, prompt_columns: tuple[str, ...], conversations: str | None = None) -> Columns:
    """The columns of these names, with the others' usual ones."""
    values = {"prompt": prompt, "prompt_columns": prompt_columns, "conversations": conversations}
    return Columns(id="id", image="image", question="question", **values)


TALK = named("{question}", ("question",), "conversations")
LIST = named("{question}", ("question",))


CHOICES = Columns(id="id", image="image", question="question", prompt="?", prompt_columns=(), choices="labels")


def said(*values: str | None) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def rows_of(path: Path, columns: Columns) -> list[Row]:
    units = discovery.open_source(str(path), Storage(), columns).units
    return [row_of(record, columns) for unit in units for record in read_unit(unit, Storage(), columns)]


def asked(tmp_path: Path, columns: Columns, *records: dict[str, Any]) -> list[Row]:
    return rows_of(write_jsonl(tmp_path / "rows.jsonl", list(records)), columns)


def names(row: Row) -> list[str]:
    return [image.name for image in row.images]


def test_each_turn_is_asked_behind_those_that_the_data_answer(tmp_path):
    talk = said("<image>\nWhat is it?", "A cat.", "And <image> this?", "A dog.", "Who is larger?", "The dog.")
    first, second, third = asked(tmp_path, TALK, {"id": "a", "image": ["x.jpg", "y.jpg"], "conversations": talk})
    assert [row.id for row in (first, second, third)] == ["a/1", "a/2", "a/3"]
    assert first.conversation == (Turn("user", (None, "What is it?")),)
    assert (names(first), names(second), names(third)) == (["x.jpg"], ["x.jpg", "y.jpg"], ["x.jpg", "y.jpg"])
    assert second.conversation == (
        *first.conversation,
        Turn("assistant", ("A cat.",)),
        Turn("user", ("And", None, "this?")),
    )
    assert third.conversation[-2:] == (Turn("assistant", ("A dog.",)), Turn("user", ("Who is larger?",)))
    assert (second.question, second.prompt, second.image) == ("And <image> this?", "And this?", "x.jpg")
    assert from_table(to_table([first, second, third])) == [first, second, third]


def test_turns_without_an_answer_are_left_out_but_for_their_images(tmp_path):
    talk = [*said("<image> What is it?", None, "And <image>?"), *said("Who?"), *said("Where?", " ", "When?")]
    rows = asked(tmp_path, TALK, {"id": 7, "image": ["x.jpg", "y.jpg"], "conversations": talk})
    assert [row.id for row in rows] == [f"7/{n}" for n in (1, 2, 3, 4, 5)]
    assert rows[0].conversation == (Turn("user", (None, "What is it?")),)
    assert rows[1].conversation == (Turn("user", (None, "And", None, "?")),)
    assert rows[4].conversation == (Turn("user", (None, None, "When?")),)


def test_the_images_of_a_turn_that_is_left_out_are_shown_once(tmp_path):
    talk = said("<image> What?", None, "Who?", "Ann.", "Where?")
    *_, last = asked(tmp_path, TALK, {"id": "a", "image": "x.jpg", "conversations": talk})
    assert last.conversation == (Turn("user", (None, "Who?")), Turn("assistant", ("Ann.",)), Turn("user", ("Where?",)))


def test_a_conversation_may_be_about_nothing_to_see(tmp_path):
    [row] = asked(tmp_path, TALK, {"id": "a", "conversations": said("What is a cat?")})
    assert row.reject is None and row.images == () and row.conversation == (Turn("user", ("What is a cat?",)),)
    assert row.image.endswith("rows.jsonl#0")


def test_the_template_is_filled_with_the_turn(tmp_path):
    columns = named("{question} Be {how}.", ("question", "how"), "conversations")
    talk = said("<image>\nWhat?", "A cat.", "Why?")
    first, second = asked(tmp_path, columns, {"id": "a", "image": "x", "how": "brief", "conversations": talk})
    assert first.conversation == (Turn("user", (None, "What? Be brief.")),)
    assert second.conversation[0] == Turn("user", (None, "What?")), "what was answered is as the data have it"
    assert second.conversation[-1] == Turn("user", ("Why? Be brief.",)) and second.prompt == "Why? Be brief."


def test_a_list_of_questions_is_asked_one_by_one(tmp_path):
    given = {"image": "x.jpg", "question": ["What?", "Who?"]}
    first, second, other = asked(tmp_path, LIST, {"id": "a", **given}, {"id": "b", "image": "y", "question": "Why?"})
    assert [(row.id, row.question, row.prompt) for row in (first, second)] == [
        ("a/1", "What?", "What?"),
        ("a/2", "Who?", "Who?"),
    ]
    assert second.conversation == (Turn("user", (None, "Who?")),) and other.id == "b"
    caption = named("Describe it.", ())
    assert [row.id for row in asked(tmp_path, caption, {"id": "a", **given})] == ["a"], "nobody asks these"


@pytest.mark.parametrize(
    ("question", "turns"),
    [
        ("Which?", (Turn("user", (None, None, "Which?")),)),
        ("This <image> or <image>?", (Turn("user", ("This", None, "or", None, "?")),)),
    ],
)
def test_a_list_of_images_stands_where_the_question_has_them_or_before_it(tmp_path, question, turns):
    [row] = asked(tmp_path, LIST, {"id": "a", "image": ["x.jpg", "y.jpg"], "question": question})
    assert row.conversation == turns and names(row) == ["x.jpg", "y.jpg"] and MARKER not in (row.prompt or "")


def test_an_empty_list_of_images_is_text_alone(tmp_path):
    [row] = asked(tmp_path, LIST, {"id": "a", "image": [], "question": "Who?"})
    assert row.reject is None and row.conversation == (Turn("user", ("Who?",)),)


def test_a_system_turn_stands_before_all_others(tmp_path):
    talk = [{"from": "system", "value": "Be brief. "}, *said("<image> What?", "A cat.", "Where?")]
    columns = replace(TALK, system="Be kind.")
    own, again, other = asked(
        tmp_path,
        columns,
        {"id": "a", "image": "x", "conversations": talk},
        {"id": "b", "image": "x", "conversations": said("<image> What?")},
    )
    assert own.turns == (Turn("system", ("Be brief.",)), Turn("user", (None, "What?")))
    assert again.turns[0] == own.turns[0] and len(again.turns) == 4 and other.turns[0] == Turn("system", ("Be kind.",))
    [plain] = asked(tmp_path, replace(LIST, system="Be kind."), {"id": "a", "image": "x", "question": "What?"})
    assert plain.conversation == (Turn("system", ("Be kind.",)), Turn.asking("What?")) and plain.prompt == "What?"
    assert from_table(to_table([own, plain])) == [own, plain]


def test_each_row_draws_one_of_several_prompts(tmp_path):
    prompts = (("Describe it.", 3.0), ("{question} In a word.", 1.0))
    columns = replace(LIST, prompts=prompts, prompt_columns=("question",))
    rows = asked(tmp_path, columns, *({"id": str(i), "image": "x", "question": "Why?"} for i in range(400)))
    drawn = [row.prompt for row in rows]
    assert {*drawn} == {"Describe it.", "Why? In a word."} and 0.68 < drawn.count("Describe it.") / 400 < 0.82
    assert [columns.template(str(i)).startswith("D") for i in range(400)] == [each.startswith("D") for each in drawn]
    missing = asked(tmp_path, columns, *({"id": str(i), "image": "x", "question": None} for i in range(40)))
    for row in missing:
        assert (row.reject is None) == (columns.template(row.id or "") == "Describe it."), (
            "only what it names is needed"
        )


def test_choices_are_the_rows_own_in_every_format(tmp_path):
    rows = [{"id": "a", "image": "x", "labels": ["red", "dark blue"]}, {"id": "b", "image": "x", "labels": ["1", "2"]}]
    pq.write_table(pa.Table.from_pylist([rows[0]]), tmp_path / "rows.parquet")
    found = [*asked(tmp_path, CHOICES, *rows), *rows_of(tmp_path / "rows.parquet", CHOICES)]
    assert [row.choices for row in found] == [("red", "dark blue"), ("1", "2"), ("red", "dark blue")]
    assert from_table(to_table(found)) == found
    numbers = pa.table({"id": ["a"], "image": ["x"], "labels": [[1, 20]]})
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    assert [row.choices for row in rows_of(tmp_path / "numbers.parquet", CHOICES)] == [("1", "20")]
    pq.write_table(numbers.set_column(2, "labels", [["x"]]), tmp_path / "texts.parquet")
    with pytest.raises(UsageError, match="column 'labels' is of type string; choices are a list"):
        rows_of(tmp_path / "texts.parquet", CHOICES)
    with pytest.raises(UsageError, match="has no column 'labels'; --choices-column must be one of"):
        asked(tmp_path, CHOICES, {"id": "a", "image": "x"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no list of choices"),
        ([], "no list of choices, or an empty one"),
        ("red", "no list of choices"),
        (["red", None], "aren't different texts"),
        (["red", "red"], "aren't different texts"),
        (["red", " blue"], "without white space around them"),
    ],
)
def test_choices_that_are_none_are_a_reject_of_their_row(tmp_path, value, message):
    good = {"id": "b", "image": "x", "labels": ["red"]}
    bad, other = asked(tmp_path, CHOICES, {"id": "a", "image": "x", "labels": value}, good)
    assert (bad.reject.error, other.reject) == ("bad_row", None) and message in bad.reject.message


BAD = {
    "null": (None, "null or absent"),
    "text": ("hello", "of type str"),
    "empty": ([], "an empty conversation"),
    "answer first": ([{"from": "gpt", "value": "x"}], "turn 1 is an answer, but not to a question"),
    "two answers": ([*said("a", "b"), {"from": "gpt", "value": "c"}], "turn 3 is an answer, but not to a question"),
    "role": ([{"from": "dog", "value": "x"}], "turn 1 is from 'dog'; known are human and gpt"),
    "a late system turn": (
        [*said("a", "b"), {"from": "system", "value": "x"}],
        "turn 3 is from 'system', which only the",
    ),
    "a system turn alone": ([{"from": "system", "value": "x"}], "an empty conversation"),
    "role of a type": ([{"from": ["human"], "value": "x"}], "turn 1 is from"),
    "value": ([*said("a", "b"), {"from": "human", "value": 3}], "turn 3 is of type int; it must be text"),
    "no turn": ([*said("a"), "b"], 'turn 2 is no {"from", "value"}'),
    "keys": ([{"role": "user", "content": "x"}], 'turn 1 is no {"from", "value"}'),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_conversation_is_a_reject_of_its_row(tmp_path, name):
    value, message = BAD[name]
    good = {"id": "b", "conversations": said("What?")}
    bad, _ = asked(tmp_path, TALK, {"id": "a", "image": "x", "conversations": value}, good)
    assert bad.id == "a" and bad.reject.error == "bad_row" and message in bad.reject.message


@pytest.mark.parametrize(
    ("columns", "record", "error", "message"),
    [
        (TALK, {"image": ["x", "y"], "conversations": said("<image> a")}, "bad_row", "shows 1 images (<image>)"),
        (TALK, {"image": "x", "conversations": said("a")}, "bad_row", "and column 'image' has 1"),
        (TALK, {"conversations": said("<image> a")}, "image_missing", "and column 'image' has 0"),
        (LIST, {"image": ["x", "y"], "question": "<image> a"}, "bad_row", "the prompt shows 1 images (<image>) and"),
        (LIST, {"image": ["x", None], "question": "a"}, "image_missing", "image 2 of 2: column 'image' is null"),
        (LIST, {"image": ["x", 3], "question": "a"}, "bad_row", "image 2 of 2: column 'image' is of type int"),
        (LIST, {"image": None, "question": "a"}, "image_missing", "column 'image' is null, absent or empty"),
        (LIST, {"image": "x", "question": []}, "bad_row", "column 'question' is an empty list"),
        (LIST, {"image": "x", "question": ["a", 3]}, "bad_row", "column 'question': question 2 is of type int"),
    ],
)  # fmt: skip
def test_images_and_questions_that_do_not_fit(tmp_path, columns, record, error, message):
    [row] = asked(tmp_path, columns, {"id": "a"} | record)
    assert row.reject is not None and row.reject.error == error and message in row.reject.message


def test_every_turn_of_a_mismatch_is_rejected_by_its_id(tmp_path):
    rows = asked(tmp_path, TALK, {"id": "a", "image": "x", "conversations": said("a", "b", "c")})
    assert [(row.id, row.reject.error) for row in rows] == [("a/1", "bad_row"), ("a/2", "bad_row")]


@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["human", "gpt", "<image>"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["from", "value", "x"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_whatever_a_column_holds_is_read_or_rejected(value):
    exchanges_of(value, "conversations")


def test_what_is_nested_too_deeply_is_a_reject():
    """The parser may just bear it where what comes behind it doesn't. An exception would end the run."""
    columns = replace(LIST, carried=("x",), prompt="?", prompt_columns=())
    reading = formats.UnitReading(Unit("jsonl", "/rows.jsonl"), Storage(), replace(columns, where="x == y"))
    deep, as_deep = [], []
    for _ in range(2000):
        deep, as_deep = [deep], [as_deep]
    record = Record("/rows.jsonl#0", "/", {"id": 1, "image": "a", "x": deep, "y": as_deep})
    [compared] = formats._asked(record, reading)
    for one, said in ((record, "column 'x' is nested too deeply"), (compared, "--where compares what can't be")):
        row = row_of(one, columns)
        assert row.reject is not None and row.reject.error == "bad_row" and said in row.reject.message
    talk = exchanges_of([{"from": deep, "value": ""}], "conversations")
    assert isinstance(talk, Reject) and "turn 1 is from what is of type list" in talk.message


@given(parts=st.lists(st.one_of(st.none(), st.from_regex(r"[a-z]([a-z ]*[a-z])?", fullmatch=True)), max_size=8))
def test_texts_are_cut_at_their_markers(parts):
    text = "".join(f"\n{MARKER} " if part is None else f" {part} " for part in parts)
    assert [part for part in parts_of(text) if part is None] == [part for part in parts if part is None]
    assert " ".join(part or MARKER for part in parts_of(text)).split() == text.split()


RECORDS = [
    {"id": f"r{i}", "image": f"{i}.jpg", "conversations": said("<image> a", "b", *["c", "d"] * (i % 3))}
    for i in range(9)
]


def write(folder: Path, kind: str) -> Path:
    """RECORDS as a file of some format. `parquet` has three to a row group."""
    import tarfile

    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=3)
    elif kind == "json":
        path.write_text("\ufeff " + json.dumps(RECORDS, indent=2) + "\n", encoding="utf-8")
    elif kind == "jsonl":
        write_jsonl(path, RECORDS)
    else:
        with tarfile.open(path, "w") as tar:
            for record in RECORDS:
                add(tar, f"{record['id']}.jpg", b"x")
                add(tar, f"{record['id']}.json", json.dumps(record).encode())
    return path


EXPANDED = [f"r{i}/{n + 1}" for i in range(9) for n in range(1 + i % 3)]


def units_of(path: Path, columns: Columns = TALK) -> Sequence[Unit]:
    return discovery.open_source(str(path), Storage(), columns).units


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "tar"])
def test_both_passes_count_alike_in_every_format(tmp_path, kind):
    [unit] = units_of(write(tmp_path, kind))
    for images in (False, True):
        assert [row_of(record, TALK).id for record in read_unit(unit, Storage(), TALK, images)] == EXPANDED
    assert len(scan_unit(unit, Storage(), TALK).digests) == len(EXPANDED)


@pytest.mark.parametrize(
    ("columns", "ids"), [(TALK, str), (replace(TALK, id=BY_PLACE), lambda id: f"rows.parquet#{id[1:]}")]
)
@pytest.mark.parametrize("done", [range(6), range(3, 18), range(18), range(5), [7]])
def test_row_groups_of_which_all_questions_are_done_are_passed_over(tmp_path, columns, ids, done, monkeypatch):
    [unit] = units_of(write(tmp_path, "parquet"), columns)
    idle, opened = [number in done for number in range(18)], []
    read_group = formats._read_group
    monkeypatch.setattr(formats, "_read_group", lambda file, group, wanted, *others: (
        opened.append(group) if "image" in wanted else None, read_group(file, group, wanted, *others))[1])  # fmt: skip
    found = list(read_unit(unit, Storage(), columns, idle=idle))
    assert [row_of(r, columns).id for r, idly in zip(found, idle, strict=True) if not idly] == [
        ids(id) for id, idly in zip(EXPANDED, idle, strict=True) if not idly
    ]
    groups = [range(6 * g, 6 * g + 6) for g in range(3)]
    assert opened == [number for number, group in enumerate(groups) if not all(idle[i] for i in group)]


def damaged(path: Path, column: str) -> Path:
    """A Parquet file of which one column's pages are damaged in the second row group."""
    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=3, compression="none",
                   use_dictionary=False, write_page_checksum=True)  # fmt: skip
    group = pq.ParquetFile(path).metadata.row_group(1)
    [chunk, *_] = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith(column)]
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 2] ^= 0xFF
    path.write_bytes(data)
    return path


def test_damaged_images_cost_their_rows_and_both_passes_still_count_alike(tmp_path):
    [unit] = units_of(damaged(tmp_path / "rows.parquet", "image"))
    rows = [row_of(record, TALK) for record in read_unit(unit, Storage(), TALK)]
    assert [row.id for row in rows] == EXPANDED
    assert [row_of(r, TALK).id for r in read_unit(unit, Storage(), TALK, images=False)] == EXPANDED
    assert [row.id for row in rows if row.reject] == [id for id in EXPANDED if id[:2] in ("r3", "r4", "r5")]
    assert {row.reject.error for row in rows if row.reject} == {"source_unreadable"}


@pytest.mark.parametrize(
    ("columns", "damage"),
    [(replace(named("?", ()), where="id in ['r1', 'r4', 'r8']"), "id"), (replace(TALK, id=BY_PLACE), "conversations")],
)
def test_what_decides_how_many_records_there_are_ends_the_file_if_it_is_damaged(tmp_path, columns, damage):
    """Even if it is the only column that a plan reads."""
    [unit] = units_of(damaged(tmp_path / "rows.parquet", damage), columns)
    scan = scan_unit(unit, Storage(), columns)
    assert scan.unread == [len(scan.digests) - 1]
    assert len(list(read_unit(unit, Storage(), columns))) == len(scan.digests) == (2 if damage == "id" else 7)


def test_rows_that_where_excludes_are_not_rejected_for_a_damaged_image(tmp_path):
    """Or their rejects took the places of other rows, which then were lost or labelled twice."""
    columns = replace(named("?", ()), where="id in ['r1', 'r4', 'r8']")
    [unit] = units_of(damaged(tmp_path / "rows.parquet", "image"), columns)
    assert len(scan_unit(unit, Storage(), columns).digests) == 3
    rows = [row_of(record, columns) for record in read_unit(unit, Storage(), columns, idle=[False] * 3)]
    assert [(row.id, row.reject and row.reject.error) for row in rows] == [
        ("r1", None), ("r4", "source_unreadable"), ("r8", None)]  # fmt: skip


def test_where_damage_hides_how_many_questions_there_are_no_later_row_takes_another_ones_place(tmp_path):
    """A verdict is of a record by its number: were the third row group read all the same, then, if the store failed
    for a moment in one pass only, each of its rows would have the verdict of another."""
    [unit] = units_of(damaged(tmp_path / "rows.parquet", "conversations"))
    for images in (False, True):
        *rows, last = (row_of(record, TALK) for record in read_unit(unit, Storage(), TALK, images))
        assert [row.id for row in rows] == EXPANDED[:6]
        assert last.id is None and last.reject is not None and last.reject.error == "source_unreadable"
    scan = scan_unit(unit, Storage(), TALK)
    assert len(scan.digests) == 7 and scan.unread == [6], "so what this run finds there is left for the next"


def test_a_run_reads_as_many_questions_before_the_damage_as_the_plan_saw(tmp_path):
    """In one row group, whose rows a run counts to see whether it needs them."""
    path = tmp_path / "rows.parquet"
    rows = [{"id": f"r{i}", "image": "a.jpg", "question": [f"{i}?" * 50, "why?"]} for i in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", data_page_size=1000, write_batch_size=10,
                   use_dictionary=False, write_statistics=False, write_page_checksum=True)  # fmt: skip
    data = bytearray(path.read_bytes())
    data[data.index(b"150?150?") + 5] ^= 0xFF
    path.write_bytes(data)
    [unit] = units_of(path, LIST)
    planned = len(scan_unit(unit, Storage(), LIST).digests)
    found = list(read_unit(unit, Storage(), LIST, idle=[False] * planned))
    assert len(found) == planned > 200 and [record.reject is None for record in found] == [True] * (planned - 1) + [
        False
    ]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_view(pa.string())])
def test_a_parquet_list_of_questions(tmp_path, kind):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ["a"], "image": ["x"], "question": pa.array([["b", "c"]], kind)}), path)
    [unit] = units_of(path, LIST)
    for images in (False, True):
        assert [row_of(r, LIST).id for r in read_unit(unit, Storage(), LIST, images)] == ["a/1", "a/2"]


@pytest.mark.parametrize(
    ("text", "good", "message"),
    [
        ('[{"id": 1, "image": "x", "question": "q"}, 7, {"id": 2}]', ["1", None, "2"], "a JSON int, not an object"),
        ('[{"id": 1, "image": "x", "question": "q"}, {"id": 2', ["1", None], "nothing after record 1 can be read"),
        ('[{"id": 1, "image": "x", "question": "q"} {"id": 2}]', ["1", None], "nothing after record 1 can be read"),
        ('[{"id": 1, "image": "x", "question": "q"}', ["1", None], "nothing after record 1 can be read"),
        (' [ \n ] ', [], ""),
    ],
)  # fmt: skip
def test_a_json_list_is_read_element_by_element(tmp_path, text, good, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    rows = rows_of(path, LIST)
    assert [row.id for row in rows] == good
    assert not message or message in next(row.reject.message for row in rows if row.reject and row.id is None)


def test_a_json_list_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    records = [{"id": i, "image": "x", "question": "é" * 5000} for i in range(600)]
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(units, "LINE_LIMIT", 20_000)
    assert [row.id for row in rows_of(path, LIST)] == [str(i) for i in range(600)]
    path.write_text(json.dumps([records[0], {"id": 1, "question": "e" * 3_000_000}]))
    [_, row] = rows_of(path, LIST)
    assert row.reject.error == "source_unreadable"


def test_usage(tmp_path):
    path = write(tmp_path, "jsonl")
    with pytest.raises(UsageError, match="give --conversations-column conversations"):
        discovery.open_source(str(path), Storage(), LIST)
    with pytest.raises(UsageError, match=r"no column 'talk'; --conversations-column must be one of"):
        discovery.open_source(str(path), Storage(), named("", (), "talk"))
    with pytest.raises(UsageError, match=r"--prompt is 'Describe.'; it must be a template with \{question\}"):
        JobOptions(input=("a",), output="b", conversations_column="conversations", prompt="Describe.")
