"""Each format, read back as those who use it read it; whatever the texts say."""

from __future__ import annotations

import json
import math
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from adafv.exporting.export import FORMATS, export
from adafv.exporting.formats import LISTS, WHICH, Labels
from adafv.pipeline import schema
from adafv.pipeline.errors import UsageError
from adafv.pipeline.fields import fields_of
from adafv.pipeline.store.storage import Storage
from tests.reporting.outputs import label, run, write

HOSTILE = [
    'a "quoted" \\ text',
    "two\nlines\r\nand\x0b\x1c\x85\u2028\u2029 ends that aren't any",
    "</script><!-- <image",
    "emoji 🦖, combining é, right-to-left \u202eabc, nul \x00, lone \ufffd",
    "[{,'",
    "",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
rows = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.one_of(st.sampled_from(["a.jpg", "b.jpg"]), texts),
            "prompt": texts,
            "answer": texts,
            "finish_reason": st.sampled_from(["stop", "length"]),
            "mean_logprob": st.sampled_from([-0.5, -2.0, -math.inf, math.nan, None, 0.0]),
        }
    ),
    max_size=8,
)


def output(folder: Path, given: list[dict], files: int = 1) -> str:
    labels = [label(f"id {n}", model="m", **row) for n, row in enumerate(given)]
    return write(folder / "out", labels, [run()], files=files)


def exported(folder: Path, given: list[dict], format: str, files: int = 1, roots: tuple[str, ...] = ()) -> str:
    target = folder / "file"
    found = export(output(folder, given, files), format, target, roots)
    assert found.rows + found.left_out == len(given)
    return target.read_text(encoding="utf-8")


@given(given=rows, files=st.integers(1, 3))
def test_jsonl_has_a_label_a_line_with_every_column_but_the_lists(tmp_path_factory, given, files):
    text = exported(tmp_path_factory.mktemp("o"), given, "jsonl", files)
    assert len(text.splitlines()) == len(given), "no text may end a line"
    found = sorted((json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()), key=lambda r: r["id"])
    for n, (got, wanted) in enumerate(zip(found, given, strict=True)):
        assert list(got) == [name for name in schema.LABELS.names if name not in LISTS]
        sure = wanted["mean_logprob"]
        known = wanted | {"mean_logprob": sure if sure is not None and math.isfinite(sure) else None}
        assert {name: got[name] for name in wanted} == known and got["id"] == f"id {n}"
        assert got["labelled_at"].startswith("2026-11-20T12:00:10")


def test_jsonl_has_the_properties_of_answers(tmp_path):
    uri = output(tmp_path, [{"image": "a"}])
    answers = json.dumps({"type": "object", "properties": {"signs": {"type": "array", "items": {"type": "string"}}}})
    columns = schema.labels_schema(fields_of(answers, schema.RESULTS.names))
    table = pa.Table.from_pylist([label("b") | {"signs": ["x", "y"]}], schema=columns)
    pq.write_table(table, Path(uri) / "labels" / "1.parquet", write_page_checksum=True)
    export(uri, "jsonl", tmp_path / "file")
    first, second = map(json.loads, (tmp_path / "file").read_text().splitlines())
    assert "signs" not in first and second["signs"] == ["x", "y"] and list(second) == [*first, "signs"]


def test_jsonl_says_which_labels_are_reused(tmp_path):
    uri = output(tmp_path, [{"image": "a"}])
    columns = schema.labels_schema([schema.DUPLICATE])
    table = pa.Table.from_pylist([label("b"), label("c") | {"duplicate_of": "b"}], schema=columns)
    pq.write_table(table, Path(uri) / "labels" / "1.parquet", write_page_checksum=True)
    export(uri, "jsonl", tmp_path / "file")
    rows = [json.loads(line) for line in (tmp_path / "file").read_text().splitlines()]
    assert [row.get("duplicate_of", "no column") for row in rows] == ["no column", None, "b"]


@given(given=rows, files=st.integers(1, 3))
def test_coco_captions_is_what_pycocotools_loads(tmp_path_factory, given, files):
    folder = tmp_path_factory.mktemp("o")
    exported(folder, given, "coco-captions", files)
    with redirect_stdout(StringIO()):
        coco = COCO(str(folder / "file"))
    assert {"info", "licenses", "images", "annotations"} <= coco.dataset.keys()
    names = [image["file_name"] for image in coco.loadImgs(coco.getImgIds())]
    assert sorted(names) == sorted({row["image"] for row in given}), "an image stands in it once"
    assert sorted(coco.getImgIds()) == list(range(1, len(names) + 1))
    captions = {
        (image["file_name"], each["label"], each["caption"], each["finish_reason"])
        for image in coco.loadImgs(coco.getImgIds())
        for each in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    }
    assert captions == {(r["image"], f"id {n}", r["answer"], r["finish_reason"]) for n, r in enumerate(given)}
    assert len(set(coco.getAnnIds())) == len(given)


def test_coco_captions_numbers_images_as_they_come(tmp_path):
    given = [{"image": name, "prompt": "", "answer": name} for name in ("z", "a", "z", "m", "a")]
    found = json.loads(exported(tmp_path, given, "coco-captions"))
    assert found["images"] == [
        {"id": 1, "file_name": "z"},
        {"id": 2, "file_name": "a"},
        {"id": 3, "file_name": "m"},
    ]
    assert [each["image_id"] for each in found["annotations"]] == [1, 2, 1, 3, 2]


def test_labels_that_come_while_an_export_runs_end_it(tmp_path, monkeypatch):
    """The images are known from a first look at the labels; here a later look finds another."""
    uri = output(tmp_path, [{"image": "a"}])
    write(tmp_path / "more", [label("late", image="b")], [])
    read, seen = Labels.batches, []

    def batches(self, columns, whole=False):
        if seen:
            (tmp_path / "more/labels/0.parquet").rename(tmp_path / "out/labels/1.parquet")
            seen.clear()
        elif not seen and columns == WHICH:
            seen.append(1)
        return read(self, columns, whole)

    monkeypatch.setattr(Labels, "batches", batches)
    with pytest.raises(UsageError, match="added while they were read"):
        export(uri, "coco-captions", tmp_path / "file")
    assert not list(tmp_path.glob("*file*"))


@given(given=rows, files=st.integers(1, 3))
def test_llava_has_a_conversation_for_each_label(tmp_path_factory, given, files):
    found = json.loads(exported(tmp_path_factory.mktemp("o"), given, "llava", files))
    for entry in found:
        row = given[int(entry["id"].removeprefix("id "))]
        human, gpt = entry["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"] == f"<image>\n{row['prompt']}" and gpt["value"] == row["answer"]
        assert (entry["image"], entry["finish_reason"]) == (row["image"], row["finish_reason"])


def test_llava_leaves_out_texts_that_would_be_taken_for_an_image(tmp_path, capsys):
    given = [
        {"prompt": "p", "answer": "a"},
        {"prompt": "an <image>?", "answer": "a"},
        {"prompt": "p", "answer": "<image>"},
    ]
    exported_ = export(output(tmp_path, given), "llava", tmp_path / "file")
    assert (exported_.rows, exported_.left_out) == (1, 2) and "<image>" in exported_.reason
    assert [entry["id"] for entry in json.loads((tmp_path / "file").read_text())] == ["id 0"]


@pytest.mark.parametrize("format", ["jsonl", "coco-captions", "label-studio"])
def test_the_others_keep_a_placeholder_as_it_is(tmp_path, format):
    given = [{"image": "s3://b/a.jpg", "prompt": "an <image>?", "answer": "an <image>"}]
    assert "an <image>" in exported(tmp_path, given, format)


@given(given=rows, files=st.integers(1, 3))
def test_label_studio_shows_the_least_confident_first(tmp_path_factory, given, files):
    given = [row | {"image": f"s3://bucket/{n}.jpg"} for n, row in enumerate(given)]
    tasks = json.loads(exported(tmp_path_factory.mktemp("o"), given, "label-studio", files), parse_constant=pytest.fail)
    sure = []
    for task in tasks:
        row, data = given[int(task["data"]["id"].removeprefix("id "))], task["data"]
        assert (data["image"], data["question"]) == (row["image"], row["prompt"])
        [prediction] = task["predictions"]
        [result] = prediction["result"]
        assert result["value"] == {"text": [row["answer"]]} and prediction["model_version"] == "m (adafv)"
        assert data["finish_reason"] == row["finish_reason"]
        sure.append(prediction["score"])
        logprob = row["mean_logprob"]
        assert sure[-1] == (None if logprob is None or math.isnan(logprob) else pytest.approx(math.exp(logprob)))
    assert len({task["data"]["id"] for task in tasks}) == len(given)
    order = [-1.0 if each is None else each for each in sure]
    known = [each for each in order if each > 0]
    assert known == sorted(known) and order[len(order) - len(known) :] == known, "unknown and hopeless ones come first"


def test_label_studio_results_are_those_of_the_documented_configuration(tmp_path):
    """Its names and types, and every field of a task that it shows."""
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    [task] = json.loads(exported(tmp_path, [{"image": "s3://b/a", "prompt": "p", "answer": "a"}], "label-studio"))
    [result] = task["predictions"][0]["result"]
    assert f'<TextArea name="{result["from_name"]}" toName="{result["to_name"]}"' in page
    assert f'<Image name="{result["to_name"]}"' in page and result["type"] == "textarea"
    shown = set(re.findall(r'value="\$(\w+)"', page))
    assert shown and shown <= task["data"].keys()


@pytest.mark.parametrize("format", FORMATS)
def test_an_output_without_labels(tmp_path, format):
    text = exported(tmp_path, [], format)
    assert text == "" if format in ("jsonl", "imagefolder") else json.loads(text) is not None


@pytest.mark.parametrize("format", FORMATS)
def test_labels_are_streamed(tmp_path, format, monkeypatch):
    """No format holds more than a batch of rows: what was read before is gone when the next is asked for."""
    shown = {"panels": 1, "visual_tokens": 1, "kept_tokens": 1, "width": 9, "height": 9}
    given = [{"image": f"s3://b/{n}", "prompt": "p", "answer": "a[[1,2,3,4]]"} for n in range(40)]
    given = [row | {"images": [shown | {"image": row["image"]}]} for row in given]
    uri = output(tmp_path, given, files=10)
    read, alive = Labels.batches, []

    def batches(self, columns, whole=False):
        import weakref

        for batch in read(self, columns):
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    monkeypatch.setattr(Labels, "batches", batches)
    assert export(uri, format, tmp_path / "file", ["s3://b"], boxes="thousandths").rows == 40


def test_an_unknown_output_leaves_no_file(tmp_path):
    for target in (tmp_path / "file", tmp_path / "kept"):
        if target.name == "kept":
            target.write_text("before")
        with pytest.raises(UsageError, match="is no output"):
            export(tmp_path, "jsonl", target, storage=Storage.from_environment())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (tmp_path / "kept").read_text() == "before"
