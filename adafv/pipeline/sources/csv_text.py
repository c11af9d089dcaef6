"""CSV and TSV: the first line names the columns, all values are texts, and an empty value is missing."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import Any

from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.json_text import lines_of
from adafv.pipeline.sources.records import Record
from adafv.pipeline.sources.streams import Stream, open_text
from adafv.pipeline.sources.units import READ_ERRORS, UnitReading, open_streamed

csv.field_size_limit(units.LINE_LIMIT)


def read_csv(reading: UnitReading) -> Iterator[Record]:
    """The rows of a file. The delimiter is the comma, tab or semicolon that the first line has most of."""
    number = 0
    try:
        with open_streamed(reading.unit, reading.storage) as raw:
            text = _text(open_text(raw))
            first, skipped = next(text, ""), 0
            while first.isspace():
                reading.pass_over("lines", "an empty line asks nothing", number)
                first, skipped = next(text, ""), skipped + 1
            delimiter = max(",\t;", key=first.count)
            names, lines = _names(first, text, delimiter)
            if twice := [name for name in reading.columns.wanted if names.count(name) > 1]:
                raise ValueError(f"two columns have the name {twice[0]!r}")
            for row in _rows(text, delimiter, skipped + lines):
                if not row:
                    reading.pass_over("lines", "an empty line asks nothing", number)
                    continue
                yield reading.record(number, row if isinstance(row, Reject) else _values(row, names))
                number += 1
    except (ValueError, csv.Error, *READ_ERRORS) as error:
        yield reading.rest_unreadable(number, error)


def _names(first: str, text: Iterator[str], delimiter: str) -> tuple[list[str], int]:
    """The names in the `first` line, and how many lines they take: one in quotes may go on in the next lines."""
    names = next(csv.reader([first], delimiter=delimiter), [])
    if not names or not names[-1].endswith("\n"):
        return names, 1
    reader = csv.reader(chain([first], text), delimiter=delimiter, strict=True)
    return next(reader), reader.line_num


def _rows(text: Iterator[str], delimiter: str, above: int) -> Iterator[list[str] | Reject]:
    """The rows below the first `above` lines. One whose quotes are wrong is a reject, which may take further lines with
    it."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        before = reader.line_num
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"lines {above + before + 1} to {above + reader.line_num}"
            yield Reject("bad_row", f"{lines} can't be read as a row: {error}")


def _values(row: list[str], names: list[str]) -> dict[str, Any] | Reject:
    if len(row) != len(names):
        return Reject("bad_row", f"the row has {len(row)} values for {len(names)} columns")
    if any(clean(value) != value for value in row):
        return Reject("bad_row", "the text isn't UTF-8: iconv -f LATIN1 -t UTF-8 may convert it")
    if any("\0" in value for value in row):
        return Reject("bad_row", "the row holds zeros instead of text: the rest of the file may be missing")
    return {name: value or None for name, value in zip(names, row, strict=True)}


def _text(stream: Stream) -> Iterator[str]:
    """Lines, with bytes that aren't UTF-8 as unpaired surrogates."""
    for line in lines_of(stream):
        if line is None:
            raise ValueError(f"a line has more than {units.LINE_LIMIT} bytes")
        yield line.decode("utf-8", "surrogateescape") + "\n"
