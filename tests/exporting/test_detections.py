"""Boxes in answers: read back by pycocotools, where they were before a model wrote them in its convention."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from adafv.exporting.detections import boxes_in, convention_of, in_pixels
from jobs.export import main
from tests.reporting.outputs import label, run, write

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
sides = st.integers(28, 5000)


def detected(id: str, answer: str, model: str = "OpenGVLab/InternVL3-8B-hf", size=(640, 480), **values: Any) -> dict:
    width, height = size
    image = {"image": f"{id}.jpg", "panels": 1, "visual_tokens": 1, "kept_tokens": 1, "width": width, "height": height}
    return label(id, answer=answer, model=model, images=[image]) | values


def panel(rows: int, columns: int) -> list[dict]:
    return [{"rows": rows, "columns": columns, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}]


def exported(folder: Path, labels: list[dict], *options: str) -> COCO:
    uri = write(folder / "out", labels, [run()])
    assert main([uri, "--format", "coco-detections", "--to", str(folder / "boxes.json"), *options]) == 0
    with redirect_stdout(StringIO()):
        return COCO(str(folder / "boxes.json"))


def boxes(coco: COCO) -> list[tuple[str, str, list[float]]]:
    """The label, category and box of each annotation."""
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    return [(one["label"], names[one["category_id"]], one["bbox"]) for one in coco.loadAnns(coco.getAnnIds())]


@st.composite
def pictures(draw) -> tuple[int, int, list[tuple[str, list[int]]]]:
    width, height = draw(sides), draw(sides)
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='[](){}<>"\\'), max_size=9)
    corners = st.tuples(st.integers(0, 990), st.integers(0, 990), st.integers(5, 999), st.integers(5, 999))
    found = draw(st.lists(st.tuples(names, corners), min_size=1, max_size=4))
    return width, height, [(name, [x, y, min(x + w, 1000), min(y + h, 1000)]) for name, (x, y, w, h) in found]


@settings(max_examples=30)  # each writes files
@given(picture=pictures(), cut=st.booleans(), fenced=st.booleans())
def test_thousandths_in_json(tmp_path_factory, picture, cut, fenced):
    """Between words or not; of a list that was cut off, the whole boxes count, and the rest is listed."""
    width, height, found = picture
    text = json.dumps([{"bbox_2d": corners, "label": name} for name, corners in found])
    text = text[:-1] + ', {"bbox_2d": [1, 2' if cut else text
    text = f"There:\n```json\n{text}\n```" if fenced else text
    coco = exported(tmp_path_factory.mktemp("o"), [detected("a", text, size=(width, height))])
    known = [(name or "object", corners) for name, corners in found]
    assert coco.getCatIds() == list(range(1, len({name for name, _ in known}) + 1))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == sorted({name for name, _ in known})
    for (_, name, box), (asked, (left, top, right, bottom)) in zip(boxes(coco), known, strict=True):
        given = [left * width, top * height, (right - left) * width, (bottom - top) * height]
        assert name == asked and box == pytest.approx([each / 1000 for each in given], abs=0.02)
    assert [one["reason"] for one in coco.dataset["left_out"]] == ["1 of its boxes can't be read"] * cut


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), size=st.tuples(sides, sides), at=st.data())
def test_pixels_of_the_resized_image(rows, columns, size, at):
    """Qwen2.5-VL sees `rows` x `columns` tokens of 28 pixels, whatever the image's own size."""
    left, top = at.draw(st.integers(0, 28 * columns - 1)), at.draw(st.integers(0, 28 * rows - 1))
    right, bottom = at.draw(st.integers(left + 1, 28 * columns)), at.draw(st.integers(top + 1, 28 * rows))
    row = detected("a", "", QWEN, size, grid=panel(rows, columns))
    box = in_pixels([left, top, right, bottom], row, convention_of(row["model"]))
    assert isinstance(box, list)
    across, down = size[0] / (28 * columns), size[1] / (28 * rows)
    found = [box[0] / across, box[1] / down, box[2] / across, box[3] / down]
    assert found == pytest.approx([left, top, right - left, bottom - top], abs=0.02 * max(1 / across, 1 / down))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (
            "<ref>red car</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>",
            [("red car", [1, 2, 3, 4]), ("red car", [5, 6, 7, 8])],
        ),
        ("A cat[[1,2,3,4]], a dog[[5,6,7,8]].", [("A cat", [1, 2, 3, 4]), ("a dog", [5, 6, 7, 8])]),
        ("the cat(1,2),(3,4)", [("the cat", [1, 2, 3, 4])]),
        ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", [("cat", [1, 2, 3, 4])]),
        ("[[1.5, 2, 3, 4]]", [("object", [1.5, 2, 3, 4])]),
        ('{"things": [{"bbox": [1, 2, 3, 4], "label": "a {b} [[c]]"}]}', [("a {b} [[c]]", [1, 2, 3, 4])]),
        ("cat(.5,2.),(3,4)", [("cat", [0.5, 2, 3, 4])]),
        ("cat[[1,2,3,4]] dog[[5,6,7,8]", [("cat", [1, 2, 3, 4]), ("dog", [5, 6, 7, 8])]),
        ("cat[[1,2,3,4],[5,6,7,8]", [("cat", [1, 2, 3, 4]), ("cat", [5, 6, 7, 8])]),
        ("[]", []),
        ("```json\n[ ]\n```", []),
        ('{"things": []}', []),
    ],
)
def test_other_ways_to_write_boxes(answer, found):
    assert boxes_in(answer) == (found, [])


@pytest.mark.parametrize(
    "cut", [" <ref>dog</ref><box>[[1,2,", ", dog[[", ",[5,6", " dog(1,", " dog(1,2),(3", "<|box_start|>(1,2),"]
)
def test_a_box_that_was_cut_off_is_told(cut):
    whole = "cat[[1,2,3,4]" + ("" if cut.startswith(",[") else "]")
    assert boxes_in(whole + cut) == ([("cat", [1, 2, 3, 4])], ["1 of its boxes can't be read"])


@given(st.text(st.sampled_from('ab[](){}<>,".0123456789- \n'), max_size=60))
def test_any_text_gives_boxes_or_a_reason(answer):
    found, problems = boxes_in(answer)
    assert found or problems or "".join(answer.split()) == "[]"


def test_what_gives_no_box_is_listed(tmp_path, capsys):
    """A row without any box isn't in the file's images; no object is an answer, and its image is."""
    old = label("old", answer="a[[1,2,3,4]]", model="InternVL3")
    pair = detected("pair", "a[[1,2,3,4]]")
    labels = [
        detected("words", "I see no cat."),
        detected("none", "[]"),
        detected("flat", "cat[[10,10,10,900]], dog[[0,0,1000,1000]]"),
        detected("out", "cat[[1200,0,1300,100]]"),
        detected("wide", "cat[[-100,0,500,2000]]"),
        detected("three", '[{"bbox_2d": [1, 2, 3], "label": "cat"}, {"bbox_2d": [1, 2, "3", NaN]}]'),
        detected("qwen", '{"bbox_2d": [1, 2, 3, 4]}', QWEN),
        old,
        pair | {"images": pair["images"] * 2},
    ]
    coco = exported(tmp_path, labels)
    assert [one["file_name"] for one in coco.dataset["images"]] == ["none.jpg", "flat.jpg", "wide.jpg"]
    assert coco.dataset["images"][0] == {"id": 1, "file_name": "none.jpg", "width": 640, "height": 480}
    assert boxes(coco) == [("flat", "dog", [0, 0, 640, 480]), ("wide", "cat", [0, 0, 320, 480])]
    assert [one["name"] for one in coco.dataset["categories"]] == ["cat", "dog"]
    reasons = [(one["label"], one["reason"]) for one in coco.dataset["left_out"]]
    assert [name for name, _ in reasons] == ["words", "flat", "out", "three", "three", "qwen", "old", "pair"]
    said = capsys.readouterr().out
    assert "3 labels\n" in said and "6 labels were left out: they give no boxes" in said
    assert all(f"{name}: {reason}" in said for name, reason in reasons)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (f'{{"bbox_2d": [1, 2, 3, {"9" * 400}]}}', "other corners"),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "\\ud800"}', "a name that isn't UTF-8"),
        ('{"bbox_2d": "\\ud800"}', "other corners"),
        ('{"a": ' + "[" * 600 + "]" * 600 + "}", "nested too deeply"),
    ],
    ids=["digits", "name", "corners", "deep"],
)
def test_an_odd_answer_costs_itself_alone(tmp_path, answer, reason):
    coco = exported(tmp_path, [detected("odd", answer), detected("good", "cat[[0,0,500,500]]")])
    [left_out] = coco.dataset["left_out"]
    assert left_out["label"] == "odd" and reason in left_out["reason"] and len(boxes(coco)) == 1


def test_an_image_of_several_labels_stands_once(tmp_path):
    first, again = detected("a", "cat[[0,0,500,500]]"), detected("a/2", "dog[[0,0,500,500]]")
    coco = exported(tmp_path, [first, again | {"image": "a.jpg", "images": first["images"]}])
    assert len(coco.getImgIds()) == 1 and len(coco.getAnnIds(imgIds=[1])) == 2


def test_images_of_one_name_are_told_apart(tmp_path):
    labels = [detected(id, "cat[[0,0,500,500]]") for id in ("a", "b")]
    for folder, one in zip("xy", labels, strict=True):
        one["images"][0] |= {"image": "1.jpg", "uri": f"/{folder}/1.jpg"}
    coco = exported(tmp_path, labels)
    assert [one["file_name"] for one in coco.dataset["images"]] == ["/x/1.jpg", "/y/1.jpg"]
    assert {"description", "version", "date_created"} <= coco.dataset["info"].keys()


def test_a_model_must_be_known(tmp_path, capsys):
    """By its name, or by what the user says of it."""
    labels = [detected("a", "cat[[0,0,500,500]]", "my/model")]
    uri = write(tmp_path / "out", labels, [run()])
    arguments = [uri, "--format", "coco-detections", "--to", str(tmp_path / "boxes.json")]
    assert main(arguments) == 2 and "'my/model'" in (said := capsys.readouterr().err) and "--boxes" in said
    assert not (tmp_path / "boxes.json").exists()
    assert main([*arguments, "--boxes", "thousandths"]) == 0
    known = {QWEN: "qwen2.5-vl", "s3://b/qwen2_5_vl-cats": "qwen2.5-vl", "Qwen/Qwen3-VL-8B": "thousandths"}
    known |= {"Qwen/Qwen2-VL-2B": "thousandths", "zai-org/GLM-4.1V-9B-Thinking": "thousandths"}
    assert {model: convention_of(model) for model in known} == known
