"""The scorer, on labels made by hand."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.worlds.captions import f1
from adafv.worlds.drawn.score import Mean, Truth, main, named, read_labels, score

TRUTH = {
    "a": Truth("red", "colour", "small"),
    "b": Truth("blue", "colour", "small"),
    "c": Truth("red star", "main", "large"),
    "d": Truth("red star blue 7 green ring", "caption", "scene"),
    "e": Truth("no", "exists", "small"),
}


def test_all_right():
    result = score({id_: row.answer for id_, row in TRUTH.items()}, TRUTH)
    assert result.overall == Mean(1.0, 5)
    assert (result.missing, result.unknown) == (0, 0)


def test_wrong_missing_and_extra_rows():
    labels = {"a": "red", "b": "red", "c": "red ring", "d": "blue 7 red star", "x": "yes"}
    result = score(labels, TRUTH)
    assert result.by_type == {"caption": Mean(0.8, 1), "colour": Mean(0.5, 2), "main": Mean(0.0, 1)}
    assert result.by_size == {"large": Mean(0.0, 1), "scene": Mean(0.8, 1), "small": Mean(0.5, 2)}
    assert result.questions == Mean(1 / 3, 3)
    assert result.overall == Mean(pytest.approx(1.8 / 4), 4)
    assert (result.missing, result.unknown) == (1, 1)


@pytest.mark.parametrize("label", ["", None, "red star ring", "star red", "red"])
def test_all_words_must_be_right_and_in_order(label):
    assert score({"c": label}, TRUTH).by_type["main"] == Mean(0.0, 1)


def test_space_around_words_does_not_matter():
    assert score({"c": "  red  star\n"}, TRUTH).by_type["main"] == Mean(1.0, 1)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("red star blue 7", 1.0),
        ("blue 7 red star", 1.0),
        ("red star", 2 / 3),
        ("red star red star", 0.5),  # said twice: one of two is right, one of two is found
        ("red 7 blue star", 0.0),
        ("red star blue", 0.5),  # half a pair is a wrong pair
        ("", 0.0),
    ],
)
def test_a_caption_is_scored_by_its_pairs(caption, expected):
    assert f1(named(caption), named("red star blue 7")) == pytest.approx(expected)


def test_no_labels_at_all():
    result = score({}, TRUTH)
    assert result.overall is None and result.missing == 5
    assert "5" in result.table().splitlines()[-1]


def write(folder, name, columns):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)


@pytest.fixture
def folders(tmp_path):
    output, dataset = tmp_path / "output", tmp_path / "dataset"
    labels = {"id": ["a", "b"], "answer": ["red", "green"], "kept_tokens": [3, 4]}
    write(output / "labels", "1.parquet", labels)
    write(output / "labels", "2.parquet", {"id": ["c"], "answer": [None]})
    for i, (id_, row) in enumerate(TRUTH.items()):
        columns = {"id": [id_], "answer": [row.answer], "type": [row.type], "size": [row.size]}
        write(dataset, f"{i}.parquet", columns)
    return output, dataset


def test_command_line(folders, tmp_path, capsys):
    output, dataset = folders
    main([str(output), "--truth", str(dataset), "--json", str(tmp_path / "score.json")])
    figures = json.loads((tmp_path / "score.json").read_text())
    assert figures["by_type"]["colour"] == {"value": 0.5, "rows": 2}
    assert figures["missing"] == 2
    table = capsys.readouterr().out
    assert ["type", "colour", "50.0", "2"] in [line.split() for line in table.splitlines()]
    assert ["no", "label", "2"] in [line.split() for line in table.splitlines()]


def test_an_id_labelled_twice_is_an_error(folders):
    output, _ = folders
    write(output / "labels", "3.parquet", {"id": ["b"], "answer": ["blue"]})
    with pytest.raises(ValueError, match="'b'"):
        read_labels(output)


def test_empty_folders_are_an_error(folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "nothing"), "--truth", str(folders[1])])
    assert end.value.code == 2
    assert "nothing" in capsys.readouterr().err
