"""COCO detections: boxes in pixels, from answers that give boxes as text.

Two conventions are known. Qwen2.5-VL answers in pixels of the image as its processor resized it, with 28 pixels per
visual token, so a label's `grid` tells that size. Most others give thousandths of the image's width and height. Boxes
stand in JSON objects with `bbox_2d`, or as `label[[x1, y1, x2, y2]]` (InternVL) or `label(x1,y1),(x2,y2)` (Qwen2-VL).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adafv.exporting.formats import LISTED, WHICH, Exported, Labels, Numbers, Write, as_json, images_of, write_coco
from adafv.exporting.images import Images, LabelImage
from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST
from adafv.pipeline.redaction import clean

CONVENTIONS = ("qwen2.5-vl", "thousandths")
MOST = 1e9  # of a coordinate: an integer of hundreds of digits fits no float
_MODELS = {r"qwen2[._]?5[-_]?vl": "qwen2.5-vl", r"qwen[23][-_]?vl|internvl|glm-?4\S*v": "thousandths"}
_TOKEN = 28  # pixels: Qwen2.5-VL merges 2 x 2 patches of 14 x 14
_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
_LIST = r"\[[^\[\]]*\]"
_EMPTY = re.compile(r'(```\w*\s*)?(\[\s*\]|\{\s*"\w+"\s*:\s*\[\s*\]\s*\})\s*(```)?')
_END = r"(?:\s*\]|(?=\s*(?:,\s*(?:\[[^\[\]]*)?)?$))"  # of a list, which may be cut off after a box
_TEXT = re.compile(  # tags such as <ref> and <box> may stand around the label
    rf"([^\[\]()<>{{}}\n]{{0,80}})(?:<[^<>\n]*>\s*)*(\[\s*{_LIST}(?:\s*,\s*{_LIST})*{_END}"
    rf"|\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)\s*,\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\))"
)
# A box at the answer's end that was cut off.
_CUT = re.compile(r"\[[\d.,\s-]*$|\([\d.\s-]*$|\([\d.\s-]*,[\d.\s-]*(?:\)[\s,]*(?:\([\d.,\s-]*)?)?$")


@dataclass(frozen=True)
class Detected:
    """What a label's answer gives.

    Attributes:
        image: None if it gives nothing.
        boxes: each with its name: x, y, width, height in pixels of the upright image.
        problems: why there are not more.
    """

    row: dict[str, Any]
    image: LabelImage | None
    boxes: list[tuple[str, list[float]]]
    problems: list[str]


def coco_detections(labels: Labels, images: Images, write: Write, boxes: str | None = None) -> Exported:
    """COCO detections: categories by name, each distinct image once, each box as an annotation; and under `left_out`
    what gives no box, by id. The labels are read five times.

    Args:
        boxes: one of `CONVENTIONS`; None for that of each label's model.

    Raises:
        UsageError: nobody knows how a label's model gives boxes.
    """
    names, digests, problems = set[str](), [np.empty(0, DIGEST)], list[str]()
    rows = left_out = count = 0
    for found in _read(labels, boxes):
        count += len(found.problems)
        problems += [f"{found.row['id']}: {problem}" for problem in found.problems][: LISTED - len(problems)]
        names.update(name for name, _ in found.boxes)
        if found.image is None:
            left_out += 1
        else:
            rows += 1
            digests.append(np.frombuffer(found.image.identity, DIGEST))
    known, categories = Numbers(digests), {name: number for number, name in enumerate(sorted(names), 1)}
    images = images.with_shared_names(images_of(batch) for batch in labels.singles(WHICH))
    write_coco(
        write,
        f"boxes of {labels.uri}",
        categories=(as_json({"id": number, "name": name}) for name, number in categories.items()),
        images=_images(labels, images, known, boxes),
        annotations=_annotations(labels, known, categories, boxes),
        left_out=_left_out(labels, boxes),
    )
    more = (f"and {count - len(problems):,} more, under left_out in the file",) * (count > len(problems))
    return Exported(rows, left_out, "they give no boxes", (*problems, *more))


def _images(labels: Labels, images: Images, known: Numbers, boxes: str | None) -> Iterator[str]:
    written = 0
    for found, number in _numbered(labels, known, boxes):
        if number > written:  # numbers are given in the order in which the images are first seen
            written += 1
            assert found.image is not None
            [shown] = found.row["images"]
            size = {"width": shown["width"], "height": shown["height"]}
            yield as_json({"id": number, "file_name": images.relative(found.image)} | size)


def _annotations(labels: Labels, known: Numbers, categories: Mapping[str, int], boxes: str | None) -> Iterator[str]:
    count = 0
    for found, number in _numbered(labels, known, boxes):
        for name, box in found.boxes:
            count += 1
            annotation = {
                **{"id": count, "image_id": number, "category_id": categories[name], "bbox": box},
                **{"area": round(box[2] * box[3], 2), "iscrowd": 0, "segmentation": []},  # all readers want these
                **{"label": found.row["id"], "finish_reason": found.row["finish_reason"]},
            }
            yield as_json(annotation)


def _left_out(labels: Labels, boxes: str | None) -> Iterator[str]:
    for found in _read(labels, boxes):
        for problem in found.problems:
            yield as_json({"label": found.row["id"], "reason": problem})


def _numbered(labels: Labels, known: Numbers, boxes: str | None) -> Iterator[tuple[Detected, int]]:
    for found in _read(labels, boxes):
        if found.image is not None:
            yield found, int(known.of(np.frombuffer(found.image.identity, DIGEST))[0])


def _read(labels: Labels, boxes: str | None) -> Iterator[Detected]:
    for row in labels.rows([*WHICH, "id", "answer", "finish_reason", "model", "grid"]):
        shown = row["images"]
        if shown is None or any(one["width"] is None for one in shown):
            yield Detected(row, None, [], ["it was labelled by an older version, which didn't note its image's size"])
        elif len(shown) != 1:
            yield Detected(row, None, [], [f"it has {len(shown)} images"])
        else:
            try:
                found, problems = _in_pixels_of(row, boxes)
            except RecursionError:
                found, problems = [], ["its JSON is nested too deeply"]
            image = None if problems and not found else LabelImage.of(row)[0]
            yield Detected(row, image, found, problems)


def _in_pixels_of(row: Mapping[str, Any], boxes: str | None) -> tuple[list[tuple[str, list[float]]], list[str]]:
    """The boxes of a label's answer, and why there are not more."""
    given, problems = boxes_in(row["answer"])
    found = []
    for name, corners in given:
        box = in_pixels(corners, row, boxes or convention_of(row["model"]))
        if isinstance(box, str):
            problems.append(f"the box of {name!r} {box}")
        elif clean(name) != name:
            problems.append(f"the box of {name!r} has a name that isn't UTF-8")
        else:
            found.append((name, box))
    return found, problems


def convention_of(model: str | None) -> str:
    """The convention of a model, by its name. Raises UsageError if the name doesn't tell."""
    for pattern, convention in _MODELS.items():
        if re.search(pattern, model or "", re.IGNORECASE):
            return convention
    raise UsageError(
        f"the name of the model {model!r} doesn't tell how it gives boxes: add --boxes {'|'.join(CONVENTIONS)}"
    )


def boxes_in(answer: str) -> tuple[list[tuple[str, Any]], list[str]]:
    """The boxes of an answer as it gives them, each with its name; and what is wrong with it. A JSON list without
    entries is an answer, too."""
    found = [box for value in _json_in(answer) for box in _boxes_of(value)]
    if found:
        lost = answer.count('"bbox') - len(found)
        return found, [f"{lost} of its boxes can't be read"] * (lost > 0)
    for match in _TEXT.finditer(answer):
        name = match[1].strip(" \t,;:.*-\"'`") or "object"
        lists = re.findall(_LIST, match[2]) or [match[2]]
        found += [(name, [float(number) for number in re.findall(_NUMBER, one)]) for one in lists]
    if found:
        return found, ["1 of its boxes can't be read"] * bool(_CUT.search(_TEXT.sub("", answer)))
    if _EMPTY.fullmatch(answer.strip()):
        return [], []
    return [], [f"no box in {answer[:60]!r}"]


def _json_in(text: str) -> Iterator[Any]:
    """The JSON objects in a text and its lists of objects, whatever stands between them; of a list that was cut off,
    the objects."""
    at = 0
    while (start := text.find("{", at)) >= 0:
        try:
            value, at = json.JSONDecoder().raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            at = start + 1


def _boxes_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield from (box for each in value for box in _boxes_of(each))
    elif isinstance(value, dict):
        corners = value.get("bbox_2d", value.get("bbox"))
        if corners is None:
            yield from (box for each in value.values() for box in _boxes_of(each))
        else:
            yield str(value.get("label") or "object"), corners


def in_pixels(corners: Any, row: Mapping[str, Any], convention: str) -> list[float] | str:
    """[x, y, width, height] in pixels of the label's only image, clipped to it; or what is wrong with the box.

    Args:
        corners: [x1, y1, x2, y2] as the model gives them.
        row: a label with `grid` and `images`.
        convention: one of `CONVENTIONS`.
    """
    if not isinstance(corners, list) or len(corners) != 4 or not all(_is_number(each) for each in corners):
        return f"has other corners than x1, y1, x2, y2: {repr(corners)[:60]}"
    across, down = 1000, 1000
    if convention == "qwen2.5-vl":
        if len(row["grid"] or ()) != 1:
            return "is in pixels of the resized image, whose size the label's grid doesn't tell"
        across, down = _TOKEN * row["grid"][0]["columns"], _TOKEN * row["grid"][0]["rows"]
    [image] = row["images"]
    ends = [*((image["width"], across), (image["height"], down)) * 2]
    left, top, right, bottom = (
        round(min(max(each * size / scale, 0), size), 2) for each, (size, scale) in zip(corners, ends, strict=True)
    )
    if right <= left or bottom <= top:
        return f"has no area on the image: {corners}"
    return [left, top, round(right - left, 2), round(bottom - top, 2)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
