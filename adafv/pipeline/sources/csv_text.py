"""CSV and TSV: the first line names the columns, all values are texts, and an empty one is missing."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from adafv.pipeline.passed import PassedOver
from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import units
from adafv.pipeline.sources.json_text import lines_of, rest_unreadable
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.streams import Stream, open_text
from adafv.pipeline.sources.units import READ_ERRORS, Unit, open_streamed
from adafv.pipeline.store.storage import Storage

csv.field_size_limit(units.LINE_LIMIT)


def read_csv(unit: Unit, storage: Storage, columns: Columns, images: bool, passed: PassedOver) -> Iterator[Record]:
    """The rows of a file. What separates values is the comma, tab or semicolon that its first line has most of."""
    number = 0
    try:
        with open_streamed(unit, storage) as raw:
            text = _text(open_text(raw))
            first = next(text, "")
            rows = csv.reader(text, delimiter=max(",\t;", key=first.count))
            names = next(csv.reader([first], delimiter=max(",\t;", key=first.count)), [])
            if len(set(names)) < len(names):
                raise ValueError("two columns have one name")
            for row in rows:
                place = f"{unit.uri}#{number}"
                if not row:
                    passed.add("lines", "an empty line asks nothing", place)
                    continue
                reject = _problem(row, names)
                values = {} if reject else {name: one or None for name, one in zip(names, row, strict=True)}
                yield Record(place, unit.root, values, reject)
                number += 1
    except (ValueError, csv.Error, *READ_ERRORS) as error:
        yield rest_unreadable(unit, number, error)


def _problem(row: list[str], names: list[str]) -> Reject | None:
    if len(row) != len(names):
        return Reject("bad_row", f"the row has {len(row)} values for {len(names)} columns")
    whole = all(clean(value) == value for value in row)
    return None if whole else Reject("bad_row", "the text isn't UTF-8: iconv -f LATIN1 -t UTF-8 may convert it")


def _text(stream: Stream) -> Iterator[str]:
    """Lines, in which bytes that aren't UTF-8 are unpaired surrogates."""
    for line in lines_of(stream):
        if line is None:
            raise ValueError(f"a line has more than {units.LINE_LIMIT} bytes")
        yield line.decode("utf-8", "surrogateescape") + "\n"
