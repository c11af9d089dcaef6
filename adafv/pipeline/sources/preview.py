"""Checks the first records of an input for the columns that a job needs, before anything runs."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.json_text import NO_JSON
from adafv.pipeline.sources.records import BY_PLACE, Columns, Record, partition
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import folder_of

TALK = "conversations"  # the column's name in LLaVA data sets
PEEKED = 100  # records read for the columns of a JSONL file or a tar
TRIED = 8  # files to look for such records in


def check_records(units: Sequence[Unit], storage: Storage, columns: Columns) -> None:
    """Look for the columns in a file's first records. Later records that differ are rejected one by one."""
    bad: tuple[Unit, list[Record]] | None = None
    for unit in units[:TRIED]:
        peeked = list(islice(read_unit(unit, storage, replace(columns, where=None), images=False), PEEKED))
        records = [record for record in peeked if record.columns and not (record.reject and unit.format == "tar")]
        if records:
            _check_columns(unit, records, alone=len(peeked) == 1, columns=columns)
            return
        rejects = [record.reject for record in peeked if record.reject is not None]
        no_json = [each for each in rejects if each.error == "bad_row" or NO_JSON in each.message]
        if unit.format == "jsonl" and bad is None and peeked and len(no_json) == len(peeked):
            bad = unit, peeked
    if bad is not None:
        unit, (first, *others) = bad
        looked = f"its first {len(others) + 1} lines" if others else "it"
        raise UsageError(
            f"{unit.uri}: no row can be read from {looked}: {first.reject.message if first.reject else ''}. The file "
            "must be JSON lines, one object per line, or a list of objects"
        )


def _check_columns(unit: Unit, records: Sequence[Record], alone: bool, columns: Columns) -> None:
    names = {name for record in records for name in record.columns}
    if unit.format == "tar":
        names |= {columns.id, columns.image}  # from the members' names and images
    if unit.format == "jsonl" and alone and columns.id not in names:
        _check_object(records[0].columns, unit.uri)
    check_names(sorted(names), columns, unit.uri)


def _check_object(values: dict[str, object], uri: str) -> None:
    """Raise UsageError for a file that is one JSON object with lists or objects in it, such as COCO annotations."""
    lists = [name for name, value in values.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    name = posixpath.basename(uri)
    if lists:
        how = f"jq -c '.[\"{lists[0]}\"][]' {name} > rows.jsonl"
    elif values and all(isinstance(value, dict) for value in values.values()):
        how = f"jq -c 'to_entries[] | {{id: .key, image: .key}} + .value' {name} > rows.jsonl"
    else:
        return
    shown = ", ".join(repr(name) for name in list(values)[:5]) + (", …" if len(values) > 5 else "")
    raise UsageError(f"{uri} is one JSON object, with {shown}; convert it to JSON lines: {how}")


def check_names(names: Sequence[str], columns: Columns, uri: str) -> None:
    """Raise UsageError if a column is missing. A conversation needs no image."""
    names = [*names, *partition(folder_of(uri))]
    talk, needed = columns.conversations, [("--id-column", columns.id)]
    needed += [("--image-column", columns.image)] if talk is None else [("--conversations-column", talk)]
    needed += [] if columns.choices is None else [("--choices-column", columns.choices)]
    needed += [("--where", name) for name in columns.filtered] + [("--columns", name) for name in columns.carried]
    for option, name in needed:
        hint = f", or {BY_PLACE} to make ids from file and row number" if option == "--id-column" else ""
        if name not in names and (option, name) != ("--id-column", BY_PLACE):
            raise UsageError(f"{uri} has no column {name!r}; {option} must be one of {', '.join(names)}{hint}")
    if columns.stratum is not None and columns.stratum not in names:
        raise UsageError(f"--thresholds names column {columns.stratum!r}, which {uri} doesn't have")
    missing = [name for name in columns.needed if name not in names]
    if missing:
        hint = "a fixed text such as --prompt 'Describe the image.' needs no columns"
        if columns.question in missing and TALK in names:
            hint = f"for conversations in LLaVA's format, give --conversations-column {TALK}"
        elif columns.prompt == JobOptions.prompt and columns.question in names:
            raise UsageError(
                f"--question-column is {columns.question!r}, but --prompt doesn't ask it: give "
                f"--prompt '{{{columns.question}}}', or a template that contains it"
            )
        raise UsageError(
            f"--prompt {columns.prompt!r} names {', '.join(missing)}, which {uri} doesn't have; it has "
            f"{', '.join(sorted(names))} ({hint})"
        )
