"""JSON of any layout: an object a line, a list of objects, or objects one after the other over several lines.

What a file is called says little: data sets come as `.json` with a line for each row, and as `.jsonl` with a list. The
beginning of the text decides, so that every pass over a file reads it alike. An object a line is read line by line, and
a bad line costs only itself. Everything else is read value by value and is never in memory as a whole.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.streams import BLOCK, Stream, open_text
from adafv.pipeline.sources.units import READ_ERRORS, Unit, open_streamed
from adafv.pipeline.store.storage import Storage

NO_JSON = "can be read as JSON"  # in the message of a reject that says of the rest of a file that nothing can
_BLANK = re.compile(r"[ \t\r\n]*")
_PARSE = json.JSONDecoder().raw_decode


def read_json(unit: Unit, storage: Storage, columns: Columns, images: bool, passed: PassedOver) -> Iterator[Record]:
    """The objects of a file of JSON."""
    number = 0
    try:
        with open_streamed(unit, storage) as raw:
            stream = open_text(raw)
            read = _read_lines if is_lines(stream.start.decode("utf-8", "replace")) else _read_values
            for record in read(unit, stream, passed):
                yield record
                number += 1
    except (ValueError, RecursionError) as error:  # no JSON, or no text, from here on
        message = f"nothing after record {number} {NO_JSON}: {type(error).__name__}: {error}"
        yield Record(f"{unit.uri}#{number}", unit.root, {}, Reject("source_unreadable", message))
    except READ_ERRORS as error:
        yield rest_unreadable(unit, number, error)


def rest_unreadable(unit: Unit, number: int, error: BaseException) -> Record:
    """What stands for the records of a file from `number` on."""
    message = f"nothing after record {number} can be read: {type(error).__name__}: {error}"
    return Record(f"{unit.uri}#{number}", unit.root, {}, Reject("source_unreadable", message))


def is_lines(start: str) -> bool:
    """Whether a text that begins so has a value on each line, rather than values over several lines, or a list."""
    text = start.lstrip()
    if text[:1] not in ("{", "["):
        return True
    first, newline, rest = text.partition("\n")
    if _end_of(first.rstrip()) == len(first.rstrip()):  # of a list of objects on its line, the objects are the rows
        return text[0] == "{" or (bool(rest.strip()) and not first[1:].lstrip().startswith("{"))
    if not newline and text[0] == "{" and _end_of(first) is None:
        return True  # a line that is longer than what is known of it
    if text[0] == "[":
        at = _BLANK.match(text, 1).end()  # type: ignore[union-attr]
        return text[at : at + 1] != "]" and not _may_be_value(text, at)
    end = _end_of(text)
    if end is not None and end <= len(first):  # a whole value on the first line, and more behind it
        return not first[end:].lstrip().startswith("{")
    return end is None and not _may_be_value(text, 0)


def _end_of(text: str) -> int | None:
    """Where the value ends with which `text` begins; None where it is none, or is cut off."""
    try:
        return _PARSE(text)[1]
    except (ValueError, RecursionError):
        return None


def _may_be_value(text: str, at: int) -> bool:
    """Whether a value begins at `at`: a whole one, or one that goes on where the text ends."""
    try:
        _PARSE(text, at)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated") or not text[error.pos :].strip()
    except (ValueError, RecursionError):  # an absurdly long number, deep nesting
        return False
    return True


def _read_lines(unit: Unit, stream: Stream, passed: PassedOver) -> Iterator[Record]:
    number = 0
    for line in lines_of(stream):
        place = f"{unit.uri}#{number}"
        if line is not None and not line.strip():
            passed.add("lines", "an empty line asks nothing", place)
            continue
        if line is None:
            values: dict[str, Any] | Reject = Reject("bad_row", f"the line has more than {units.LINE_LIMIT} bytes")
        else:
            values = json_object(line)
        yield Record(place, unit.root, {}, values) if isinstance(values, Reject) else Record(place, unit.root, values)
        number += 1


def lines_of(stream: Stream) -> Iterator[bytes | None]:
    """The lines of a stream; None for one over `LINE_LIMIT`, which is not held in memory."""
    rest, overlong = b"", False
    while block := stream.read(BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield None if overlong else line
            overlong = False
        if len(rest) > units.LINE_LIMIT:
            rest, overlong = b"", True
    if rest or overlong:
        yield None if overlong else rest


def json_object(text: bytes) -> dict[str, Any] | Reject:
    """The object that `text` is."""
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Reject("bad_row", f"the text isn't UTF-8 ({error}): iconv -f LATIN1 -t UTF-8 may convert it")
    except (ValueError, RecursionError) as error:  # bad JSON, absurdly long numbers, deep nesting
        return Reject("bad_row", f"no JSON: {type(error).__name__}: {error}")
    return values if isinstance(values, dict) else Reject("bad_row", _no_object(values))


def _no_object(value: Any) -> str:
    return f"a JSON {type(value).__name__}, not an object"


def _read_values(unit: Unit, stream: Stream, passed: PassedOver) -> Iterator[Record]:
    for number, value in enumerate(_values(_Text(stream), unit.uri, passed)):
        place = f"{unit.uri}#{number}"
        if isinstance(value, dict):
            yield Record(place, unit.root, value)
        else:
            yield Record(place, unit.root, {}, Reject("bad_row", _no_object(value)))


def _values(text: _Text, uri: str, passed: PassedOver) -> Iterator[Any]:
    """The objects of a text, and the elements of its lists. Raises ValueError where it is neither."""
    listed = False
    while sign := text.sign():
        if sign == "{":
            yield text.value()
        elif sign == "[":
            yield from _elements(text)
            listed = True
        elif listed:
            passed.add("rests of files", "what stands behind the end of a JSON list is no JSON", uri)
            return
        else:
            raise ValueError(f"{text.excerpt()!r}, where an object or a list must begin")


def _elements(text: _Text) -> Iterator[Any]:
    text.skip()
    if text.sign() == "]":
        text.skip()
        return
    while True:
        yield text.value()
        sign = text.sign()
        if sign not in (",", "]"):
            raise ValueError(f"{text.excerpt()!r}, where a list must go on or end")
        text.skip()
        if sign == "]":
            return


class _Text:
    """A stream's text, of which a part is held in memory."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder("utf-8")().decode
        self._held, self._at, self._ended = "", 0, False

    def sign(self) -> str:
        """The next character that isn't blank; none at the end."""
        while True:
            self._at = _BLANK.match(self._held, self._at).end()  # type: ignore[union-attr]
            if self._ended or self._at < len(self._held):
                return self._held[self._at : self._at + 1]
            self._read_on()

    def skip(self) -> None:
        """Go past the sign."""
        self._at += 1

    def excerpt(self) -> str:
        return self._held[self._at : self._at + 20]

    def value(self) -> Any:
        """The next value. Raises ValueError where there is none, or it is over `LINE_LIMIT`."""
        self.sign()
        while True:
            try:
                value, end = _PARSE(self._held, self._at)
            except ValueError:
                if self._ended:
                    raise
                if len(self._held) - self._at > units.LINE_LIMIT:
                    raise ValueError(
                        f"{self.excerpt()!r} begins a value of more than {units.LINE_LIMIT} bytes"
                    ) from None
            else:
                if self._ended or end < len(self._held):  # else it may go on
                    self._at = end
                    return value
            self._read_on()

    def _read_on(self) -> None:
        block = self._stream.read(BLOCK)
        self._ended = not block
        self._held, self._at = self._held[self._at :] + self._decode(block, final=self._ended), 0
