"""JSON in any layout: an object per line, a list of objects, or objects one after another over several lines.

File names say little: data sets have `.json` files with a row per line and `.jsonl` files with a list. The beginning of
the text decides, so every pass reads a file alike. With an object per line, a bad line costs only itself. Everything
else is read value by value, never as a whole.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.records import Record
from adafv.pipeline.sources.streams import CHUNK, Stream, open_text
from adafv.pipeline.sources.units import READ_ERRORS, UnitReading, open_streamed

NO_JSON = "can be read as JSON"  # in the reject for the rest of a file
_BLANK = re.compile(r"[ \t\r\n]*")
_PARSE = json.JSONDecoder().raw_decode


def read_json(reading: UnitReading) -> Iterator[Record]:
    number = 0
    try:
        with open_streamed(reading.unit, reading.storage) as raw:
            stream = open_text(raw)
            read = _read_lines if is_lines(stream.start.decode("utf-8", "replace")) else _read_values
            for record in read(reading, stream):
                yield record
                number += 1
    except (ValueError, RecursionError) as error:  # no JSON, or no text, from here on
        message = f"nothing after record {number} {NO_JSON}: {type(error).__name__}: {error}"
        yield reading.record(number, Reject("source_unreadable", message))
    except READ_ERRORS as error:
        yield reading.rest_unreadable(number, error)


def is_lines(start: str) -> bool:
    """Whether a text that begins like this has a value per line, rather than values over several lines, or a list."""
    text = start.lstrip()
    if text[:1] != "{":
        return text[:1] != "["
    first, newline, _ = text.partition("\n")
    try:
        end = _PARSE(text)[1]
    except json.JSONDecodeError as error:  # cut off by the end of the text, or broken
        return not newline or not (error.msg.startswith("Unterminated") or not text[error.pos :].strip())
    except (ValueError, RecursionError):  # an absurdly long number, deep nesting
        return True
    return end <= len(first) and not first[end:].lstrip().startswith("{")


def _read_lines(reading: UnitReading, stream: Stream) -> Iterator[Record]:
    number = 0
    for line in lines_of(stream):
        if line is None:
            yield reading.record(number, Reject("bad_row", f"the line has more than {units.LINE_LIMIT} bytes"))
        elif line.strip():
            yield reading.record(number, json_object(line))
        else:
            reading.pass_over("lines", "an empty line asks nothing", number)
            continue
        number += 1


def lines_of(stream: Stream) -> Iterator[bytes | None]:
    """The lines of a stream; None for one over `LINE_LIMIT`, which isn't held in memory."""
    rest, overlong = b"", False
    while chunk := stream.read(CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield None if overlong else line
            overlong = False
        if len(rest) > units.LINE_LIMIT:
            rest, overlong = b"", True
    if rest or overlong:
        yield None if overlong else rest


def json_object(text: bytes) -> dict[str, Any] | Reject:
    """The object in `text`, or why there is none."""
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Reject("bad_row", f"the text isn't UTF-8 ({error}): iconv -f LATIN1 -t UTF-8 may convert it")
    except (ValueError, RecursionError) as error:  # bad JSON, absurdly long numbers, deep nesting
        return Reject("bad_row", f"no JSON: {type(error).__name__}: {error}")
    return _object(values)


def _object(value: Any) -> dict[str, Any] | Reject:
    return value if isinstance(value, dict) else Reject("bad_row", f"a JSON {type(value).__name__}, not an object")


def _read_values(reading: UnitReading, stream: Stream) -> Iterator[Record]:
    for number, value in enumerate(_values(_Text(stream), reading)):
        yield reading.record(number, _object(value))


def _values(text: _Text, reading: UnitReading) -> Iterator[Any]:
    """The objects of a text and the elements of its lists. Raises ValueError for anything else."""
    listed = False
    while sign := text.sign():
        if sign == "{":
            yield text.value()
        elif sign == "[":
            yield from _elements(text)
            listed = True
        elif listed:
            reading.passed.add(
                "rests of files", "what stands behind the end of a JSON list is no JSON", reading.unit.uri
            )
            return
        else:
            raise ValueError(f"{text.excerpt()!r}, where an object or a list must begin")


def _elements(text: _Text) -> Iterator[Any]:
    text.skip()
    sign = text.sign()
    while sign != "]":
        yield text.value()
        sign = text.sign()
        if sign == ",":
            text.skip()
        elif sign != "]":
            raise ValueError(f"{text.excerpt()!r}, where a list must go on or end")
    text.skip()


class _Text:
    """A stream's text, with a part of it in memory."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder("utf-8")().decode
        self._held, self._at, self._ended = "", 0, False

    def sign(self) -> str:
        """The next non-blank character; empty at the end."""
        while True:
            self._at = _BLANK.match(self._held, self._at).end()  # type: ignore[union-attr]
            if self._ended or self._at < len(self._held):
                return self._held[self._at : self._at + 1]
            self._read_on()

    def skip(self) -> None:
        """Move past that character."""
        self._at += 1

    def excerpt(self) -> str:
        return self._held[self._at : self._at + 20]

    def value(self) -> Any:
        """The next value. Raises ValueError if there is none, or it is over `LINE_LIMIT`."""
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
        chunk = self._stream.read(CHUNK)
        self._ended = not chunk
        self._held, self._at = self._held[self._at :] + self._decode(chunk, final=self._ended), 0
