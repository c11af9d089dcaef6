"""Where questions come from, and what becomes of rows that are no good."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adafv.bench.examples import Example, LabelledData, Scenes, Skipped
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.worlds.drawn import dataset
from tests.pipeline.inputs import write_all, write_images, write_jsonl

TEN = ["red"] * 6 + ["dark red"] * 4


def labelled(path, metric="exact", type_column=None, **options):
    job = JobOptions.of(input=(str(path),), output="-", **options)
    return list(LabelledData(job, "answer", type_column, metric).examples())


def write(folder, rows):
    write_images(folder)
    return write_jsonl(folder / "rows.jsonl", rows)


def row(number=0, **values):
    return {"id": f"r{number}", "image": "plain.png", "question": "w1", "answer": "red"} | values


def test_scenes_are_the_data_sets_rows():
    examples = list(Scenes(2, seed=7).examples())
    rows = list(dataset.rows(2, seed=7))
    assert [(one.row.id, one.row.prompt, one.row.images[0].data) for one in examples] == [
        (row["id"], row["question"], row["image"]["bytes"]) for row in rows
    ]
    for example, values in zip(examples, rows, strict=True):
        caption = values["type"] == "caption"
        assert example.types == (("caption",) if caption else ("all", values["size"], values["type"]))
        assert example.cluster == str(values["scene"])
        assert example.score(values["answer"]) == 1.0 and example.score("nonsense") == 0.0


def test_a_caption_is_scored_by_its_pairs():
    (caption,) = [one for one in Scenes(1, 0).examples() if one.types == ("caption",)]
    (answer,) = [str(row["answer"]) for row in dataset.rows(1, 0, ["caption"])]
    pair = " ".join(answer.split()[:2])
    assert 0 < caption.score(pair) < 1
    shares = {type_: [score(said) for said in (answer, pair, f"{pair} no thing")] for type_, score in caption.more}
    assert list(shares) == ["hallucinated", "recalled"]
    assert shares["hallucinated"] == [0, 0, 0.5]
    assert shares["recalled"][0] == 1 and 0 < shares["recalled"][1] == shares["recalled"][2] < 1


@pytest.mark.parametrize(("scenes", "seed"), [(0, 0), (1, -1)])
def test_there_must_be_scenes(scenes, seed):
    with pytest.raises(UsageError, match="at least"):
        Scenes(scenes, seed)


def test_every_input_format(tmp_path):
    """The answer is the question's text here, which each format has."""
    for name, path in write_all(tmp_path).items():
        job = JobOptions.of(input=(str(path),), output="-", prompt="{question} please")
        examples = list(LabelledData(job, "question", None, "exact").examples())
        assert [one.score(one.row.question) for one in examples] == [1.0] * 4, name
        assert [one.row.prompt for one in examples] == [f"w{i} w{i + 1} please" for i in range(4)], name
        assert len({one.cluster for one in examples}) == 4 and all(one.row.images[0].data for one in examples), name


def test_questions_on_one_image_share_a_cluster(tmp_path):
    examples = labelled(write(tmp_path, [row(0), row(1), row(2, image="plain.jpg")]))
    assert examples[0].cluster == examples[1].cluster != examples[2].cluster


def test_rows_without_an_image_are_clusters_of_their_own(tmp_path):
    """As in a calibration; those of one cluster would have an interval of no width, however few there are."""
    several = row(2, image=[], question=["w1", "w2"], answer=["red", "red"])
    examples = labelled(write(tmp_path, [row(0, image=[]), row(1, image=[]), several, row(3)]))
    assert len(examples) == 5 and all(isinstance(one, Example) for one in examples)
    assert len({one.cluster for one in examples}) == 4 and examples[2].cluster == examples[3].cluster


def test_types_come_from_a_column(tmp_path):
    path = write(tmp_path, [row(0, kind="number"), row(1, kind=None), row(2)])
    assert [one.types for one in labelled(path, type_column="kind")] == [("all", "number"), ("all",), ("all",)]
    assert [one.types for one in labelled(path)] == [("all",)] * 3


def test_columns_of_a_parquet_file_that_no_prompt_names_are_read(tmp_path):
    write_images(tmp_path)
    answers = [{"answer": text, "answer_id": i} for i, text in enumerate(TEN)]
    pq.write_table(pa.Table.from_pylist([row(answer=answers, kind="other")]), tmp_path / "rows.parquet")
    (example,) = labelled(tmp_path / "rows.parquet", "vqa", "kind")
    assert (example.types, example.score("Red."), example.words) == (("all", "other"), 1.0, 2)


def test_bad_rows_are_skipped_with_their_reason(tmp_path):
    path = write(
        tmp_path,
        [
            row(0, answer=TEN),
            row(1, answer=None),
            row(2, answer=["red"] * 3),
            row(3, answer=TEN, image="none.png"),
            row(4, answer=TEN, image="../rows.jsonl"),
            row(5, answer=TEN, question=None),
            {"image": "plain.png", "question": "w1", "answer": TEN},
        ],
    )
    found = labelled(path, "vqa")
    assert isinstance(found[0], Example)
    assert [(one.row, one.error) for one in found[1:] if isinstance(one, Skipped)] == [
        ("r1", "answer_missing"),
        ("r2", "answers_too_few"),
        ("r3", "image_not_found"),
        ("r4", "image_refused"),
        ("r5", "prompt_incomplete"),
        (f"{path}#6", "missing_id"),
    ]


def test_limit(tmp_path):
    assert [one.row.id for one in labelled(write(tmp_path, [row(i) for i in range(70)]), limit=40)] == [
        f"r{i}" for i in range(40)
    ]


def test_unknown_metric():
    with pytest.raises(UsageError, match="'bleu'; it must be one of exact, vqa, anls, contains"):
        LabelledData(JobOptions(input=("-",), output="-"), "answer", None, "bleu")


def test_a_json_file_that_was_not_joined_is_no_input(tmp_path):
    """TextVQA's own file is one line: a record without the columns."""
    (tmp_path / "TextVQA.jsonl").write_text(json.dumps({"data": [row()]}))
    with pytest.raises(UsageError, match="is one JSON object, with 'data'"):
        labelled(tmp_path / "TextVQA.jsonl")
