"""The row that travels between stages: how it is made of a record, and its Arrow table.

A `Record` is what a file holds. A `Row` is what the job needs of it, with the prompt filled in, so that other columns
need not travel. `row_of` makes a row of any record, with a reject if the record is bad.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa

from adafv.pipeline.options import columns_of
from adafv.pipeline.redaction import clean, public_uri, shorten
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.questions import MARKER, parts_of, turns_of
from adafv.pipeline.sources.records import IMAGE_FIELDS, VIDEO, Columns, Record, Unreadable, is_of
from adafv.pipeline.uris import join
from adafv.turn import Turn

EXACT = 2**53  # up to here floats hold all whole numbers
MOST_IMAGES = 1024  # per row
VIDEO_MARKER = "<video>"


@dataclass(frozen=True, slots=True)
class RowImage:
    """An image of a row.

    Attributes:
        name: its name in the outputs: its path or URI without secrets, or the place of its row.
        place: the same in full: its URI, its full path, or the place of its row.
        uri: what to fetch, relative to the row's `image_root` unless absolute.
        data: the encoded image.
    """

    name: str
    uri: str | None = None
    data: bytes | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What travels between stages until there is a sample.

    Attributes:
        id: None only in rejects.
        image: the image's name in the outputs: the first one's, in a reject the one at fault, or the row's place if
            there is none; `image_uri`: its place.
        images: those that the prompt shows, in order.
        question: as in the input; `prompt`: as the model is asked, without image markers.
        turns: the conversation, unless it is just the prompt after its images.
        stratum: the row's kind, if thresholds differ by kind.
        choices: the row's own choices.
        carried: values for the label, in the order of `Columns.carried`.
    """

    id: str | None
    image: str
    images: tuple[RowImage, ...] = ()
    image_root: str | None = None
    question: str | None = None
    prompt: str | None = None
    turns: tuple[Turn, ...] = ()
    stratum: str | None = None
    choices: tuple[str, ...] = ()
    carried: tuple[str | None, ...] = ()
    fetch_ms: float = 0.0
    reject: Reject | None = None
    image_uri: str = ""

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns, with the prompt last."""
        return self.turns or (Turn.asking(self.prompt or "", len(self.images)),)

    def rejected(self, reject: Reject) -> Row:
        """This row as a reject, without its images."""
        return replace(self, reject=reject, images=(), turns=())

    def rejected_for(self, number: int, reject: Reject) -> Row:
        """This row as a reject because of one image, which is named if there are several."""
        row = replace(self, image=self.images[number].name, image_uri=self.images[number].place)
        if len(self.images) > 1:
            reject = Reject(reject.error, f"image {number + 1} of {len(self.images)}: {reject.message}")
        return row.rejected(reject)


IMAGE = pa.struct([("name", pa.string()), ("uri", pa.string()), ("data", pa.large_binary()), ("place", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("image_uri", pa.string()),
        ("images", pa.list_(IMAGE)),
        ("image_root", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("parts", pa.list_(pa.string()))]))),
        ("stratum", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("carried", pa.list_(pa.string())),
        ("fetch_ms", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)


def to_table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([to_dict(row) for row in rows], schema=SCHEMA)


def to_dict(row: Row) -> dict[str, Any]:
    """The row by column of `SCHEMA`."""
    values = {name: getattr(row, name) for name in SCHEMA.names if name not in ("error", "message")}
    values["images"] = [asdict(one) for one in row.images]
    values["turns"] = [{"role": turn.role, "parts": turn.parts} for turn in row.turns]
    if row.reject is not None:
        values |= {"error": row.reject.error, "message": row.reject.message}
    return values


def from_table(table: pa.Table) -> list[Row]:
    return [_from_dict(values) for values in table.to_pylist()]


def _from_dict(values: dict[str, Any]) -> Row:
    error, message = values.pop("error"), values.pop("message")
    images = tuple(RowImage(**image) for image in values.pop("images"))
    turns = tuple(Turn(turn["role"], tuple(turn["parts"])) for turn in values.pop("turns"))
    several: dict[str, Any] = {name: tuple(values.pop(name)) for name in ("choices", "carried")}
    return Row(**values, **several, images=images, turns=turns, reject=Reject(error, message) if error else None)


def id_of(value: Any) -> str | None:
    """The id that a value stands for, or None. A whole number is the same id in every type."""
    if isinstance(value, float | Decimal):
        return str(int(value)) if _is_whole(value) else None
    return text_of(value) or None


def _is_whole(number: float | Decimal) -> bool:
    """Whether it is a whole number, and not one that a float has rounded."""
    if isinstance(number, Decimal):
        return number == number.to_integral_value()
    return abs(number) <= EXACT and number == int(number)


def text_of(value: Any) -> str | None:
    """A text or number as it stands in a prompt; None for anything else. A whole float has no point: pandas makes
    floats of integers beside missing values."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return (str(int(value)) if _is_whole(value) else repr(value)) if math.isfinite(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _carried(value: Any) -> str | Unreadable | None:
    """Any value as a text; lists, objects and booleans as JSON."""
    if isinstance(value, Unreadable):
        return value
    if isinstance(value, list | dict | bool):
        try:
            return clean(json.dumps(value, ensure_ascii=False, default=str))
        except RecursionError:  # the parser could just bear it
            return Unreadable("is nested too deeply")
    return None if value is None else text_of(value) or str(value)


def row_of(record: Record, columns: Columns) -> Row:
    """The row of a record. Never raises."""
    values = record.columns
    question = record.exchanges[-1].question if record.exchanges else values.get(columns.question)
    carried = [_carried(values.get(name)) for name in columns.carried]
    row = Row(
        id=id_of(values.get(columns.id)),
        image=record.place,
        image_uri=record.place,
        image_root=columns.image_root or record.root,
        question=clean(question) if isinstance(question, str) else None,
        stratum=None if columns.stratum is None else text_of(values.get(columns.stratum)),
        carried=tuple(None if isinstance(one, Unreadable) else one for one in carried),
    )
    if record.reject is not None:
        return row.rejected(record.reject)
    if row.id is None:
        return row.rejected(_bad_id(columns.id, values.get(columns.id)))
    for name, one in zip(columns.carried, carried, strict=True):
        if isinstance(one, Unreadable):
            return row.rejected(Reject("bad_row", f"column {name!r} {one.problem}"))
    given = values.get(columns.image)
    row = _with_images(row, given, columns)
    row = _with_prompt(row, values | ({columns.question: question} if record.exchanges else {}), columns)
    if row.reject is None and columns.choices is not None:
        row = _with_choices(row, values.get(columns.choices), columns.choices)
    if row.reject is not None:
        return row
    if columns.conversations is not None:
        row = _with_turns(row, record, columns)
    elif isinstance(given, list):
        row = _with_marked(row, columns)
    system = record.exchanges[0].system if record.exchanges else None
    system = system or columns.system
    if row.reject is not None or system is None:
        return row
    return replace(row, turns=(Turn("system", (clean(system),)), *row.conversation))


def _bad_id(column: str, value: Any) -> Reject:
    if value is None or value == "":
        return Reject("missing_id", f"column {column!r} is {'null or absent (or NaN)' if value is None else 'empty'}")
    if isinstance(value, float | Decimal):
        why = f" (floats above {EXACT} don't tell whole numbers apart)" if abs(float(value)) > EXACT else ""
        return Reject("missing_id", f"column {column!r} is {value}; an id is a text or a whole number{why}")
    return Reject("missing_id", f"column {column!r} {is_of(value)}; an id is a text or a whole number")


def _with_images(row: Row, value: Any, columns: Columns) -> Row:
    """With the images of a column: one, or a list. A conversation may have none."""
    if isinstance(value, list) and len(value) > MOST_IMAGES:
        limit = f"column {columns.image!r} is a list of {len(value)}; a row may have {MOST_IMAGES} images"
        return row.rejected(Reject("bad_row", limit))
    elif isinstance(value, list):
        images = [_image(one, row, columns.image, number) for number, one in enumerate(value, 1)]
    elif columns.conversations is not None and (value is None or value == ""):
        images = []
    else:
        images = [_image(value, row, columns.image)]
    names = [RowImage(row.image, place=row.image) if isinstance(one, Reject) else one for one in images]
    first = names[0] if names else RowImage(row.image, place=row.image)
    whole = replace(row, image=first.name, image_uri=first.place, images=tuple(names))
    for number, one in enumerate(images):
        if isinstance(one, Reject):
            return whole.rejected_for(number, one)
    return whole


def _image(value: Any, row: Row, column: str, number: int = 0) -> RowImage | Reject:
    """The image that a value stands for; `number`: its place in a list. Without a path or URI it is named after its
    row."""
    path, place = None, f"{row.image}/{number}" if number else row.image
    if isinstance(value, dict):  # Hugging Face's struct: the bytes, or where they are, or both
        if not any(name in value for name in IMAGE_FIELDS):
            names = shorten(", ".join(map(str, value)) or "nothing", 100)
            return Reject("bad_row", f"column {column!r} is a struct of {names}; it must have bytes, path or url")
        data, path = value.get("bytes"), value.get("path") or value.get("url")
        if data is not None and not isinstance(data, bytes | Unreadable):
            return Reject("bad_row", f"column {column!r} has bytes of type {type(data).__name__}; they must be binary")
        value = path if data is None else data
    if isinstance(value, bytes):
        return RowImage(public_uri(clean(path)) if isinstance(path, str) and path else place, data=value, place=place)
    if isinstance(value, str) and value:
        uri = clean(value)
        return RowImage(public_uri(uri), uri=uri, place=public_uri(join(row.image_root or "", uri)))
    if value is None or value == "":
        return Reject("image_missing", f"column {column!r} is null, absent or empty")
    if isinstance(value, Unreadable):
        return Reject(value.error, f"column {column!r} {value.problem}")
    wanted = "bytes, a {bytes, path} struct, a path or URI, or a list of them"
    return Reject("bad_row", f"column {column!r} is of type {type(value).__name__}; it must be {wanted}")


def _with_prompt(row: Row, values: dict[str, Any], columns: Columns) -> Row:
    if row.reject is not None:
        return row
    texts: dict[str, str] = {}
    template = columns.template(row.id or "")
    for name in columns_of(template) if columns.prompts else columns.prompt_columns:
        value = values.get(name)
        if value is None:
            missing = f"column {name!r} is null or absent (or NaN); --prompt names it"
            return row.rejected(Reject("prompt_incomplete", missing))
        text = text_of(value)
        if text is None:
            kind = f"is {value}" if isinstance(value, float) else is_of(value)
            return row.rejected(Reject("bad_row", f"column {name!r} {kind}; --prompt needs text or a number"))
        texts[name] = text
    return replace(row, prompt=clean(template).format_map(texts))


def _with_choices(row: Row, value: Any, column: str) -> Row:
    texts = [text_of(one) for one in value] if isinstance(value, list) else None
    if not texts:
        return row.rejected(Reject("bad_row", f"column {column!r} is no list of choices, or an empty one"))
    if not all(text and text == text.strip() for text in texts) or len(set(texts)) < len(texts):
        demand = "different texts, without white space around them"
        return row.rejected(Reject("bad_row", f"column {column!r} has choices that aren't {demand}"))
    return replace(row, choices=tuple(text for text in texts if text))


def _with_turns(row: Row, record: Record, columns: Columns) -> Row:
    """With the turns of a conversation, and the images shown by the time of the question."""
    video = next((name for name in VIDEO if record.columns.get(name)), None)
    if video is not None or any(VIDEO_MARKER in exchange.question for exchange in record.exchanges):
        where = f"column {video!r} names one" if video else f"a turn shows one ({VIDEO_MARKER})"
        return row.rejected(Reject("bad_row", f"the conversation is about a video: {where}; only images are looked at"))
    if record.marked != len(row.images):
        return row.rejected(_mismatch("conversation", record.marked, len(row.images), columns.image))
    turns = turns_of(record.exchanges[:-1], row.prompt or "")
    shown = row.images[: sum(turn.images for turn in turns)]
    first = shown[0] if shown else RowImage(record.place, place=record.place)
    return replace(row, images=shown, image=first.name, image_uri=first.place, turns=turns, prompt=_words(turns))


def _with_marked(row: Row, columns: Columns) -> Row:
    """With a list's images where the prompt marks them; if it marks none, they precede it."""
    marked = (row.prompt or "").count(MARKER)
    if not marked:
        return row
    if marked != len(row.images):
        return row.rejected(_mismatch("prompt", marked, len(row.images), columns.image))
    turns = (Turn("user", parts_of(row.prompt or "")),)
    return replace(row, turns=turns, prompt=_words(turns))


def _mismatch(where: str, marked: int, given: int, column: str) -> Reject:
    message = f"the {where} shows {marked} images ({MARKER}) and column {column!r} has {given}"
    return Reject("bad_row" if given else "image_missing", message)


def _words(turns: tuple[Turn, ...]) -> str:
    """The text of the last turn."""
    return " ".join(part for part in turns[-1].parts if part is not None)
