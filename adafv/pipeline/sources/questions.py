"""Records with several questions: a list of questions, or a conversation in LLaVA's format.

Each question becomes a record whose id is the row's id, a slash, and its number from 1 on, even if there is only one:
so labels keep their ids when a row gains a question. How many questions a record has follows from the record alone, so
every pass counts alike.

A turn is asked after the earlier turns that have an answer in the data, with that answer, as models are trained on such
data; so no turn waits for another. Turns without an answer are left out, but their images are shown before the next
question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from adafv.pipeline.redaction import clean
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources.records import Columns, Exchange, Record, is_of
from adafv.turn import Turn

MARKER = "<image>"  # shows the row's next image
USER, ASSISTANT, SYSTEM = ("human", "user"), ("gpt", "assistant"), "system"


def expand(record: Record, columns: Columns, id: str | None) -> Iterator[Record]:
    """The records of a record with this id, question by question; itself if it has one ordinary question, or is bad."""
    values = record.columns
    if columns.conversations is not None:
        found = exchanges_of(values.get(columns.conversations), columns.conversations)
    elif columns.asks and isinstance(values.get(columns.question), list):
        found = questions_of(values[columns.question], columns.question)
    else:
        yield record
        return
    if isinstance(found, Reject) or id is None:
        bad = found if isinstance(found, Reject) else None
        yield replace(record, reject=record.reject or (None if id is None else bad))
        return
    shown = sum(map(markers, found))
    for number in range(len(found)):
        one = values | {columns.id: f"{id}/{number + 1}"}
        yield replace(record, columns=one, exchanges=found[: number + 1], marked=shown, asked=len(found))


def value_for(record: Record, name: str) -> Any:
    """The value of a column for the record's question. If a row has several questions, a list must have an entry for
    each; another list says nothing of them: None."""
    value = record.columns.get(name)
    if not record.asked or not isinstance(value, list):
        return value
    if len(value) == record.asked:
        return value[len(record.exchanges) - 1]
    return value if record.asked == 1 else None


def questions_of(value: list[Any], column: str) -> tuple[Exchange, ...] | Reject:
    """A list of questions."""
    if not value:
        return Reject("bad_row", f"column {column!r} is an empty list")
    for number, one in enumerate(value, 1):
        if not isinstance(one, str):
            error = "prompt_incomplete" if one is None else "bad_row"
            return Reject(error, f"column {column!r}: question {number} {is_of(one)}; it must be text")
    return tuple(Exchange(clean(one)) for one in value)


def exchanges_of(value: Any, column: str) -> tuple[Exchange, ...] | Reject:
    """A conversation: a list of {"from": "human" or "gpt", "value": text}, beginning with a human or "system"."""
    if not isinstance(value, list):
        kind = "is null or absent (or NaN)" if value is None else is_of(value)
        return Reject("bad_row", f'column {column!r} {kind}; it must be a list of {{"from", "value"}}')
    found: list[Exchange] = []
    system: str | None = None
    for number, turn in enumerate(value, 1):
        problem = _problem(turn, answers=bool(found) and found[-1].answer is None, first=number == 1)
        if problem:
            return Reject("bad_row", f"column {column!r}: turn {number} {problem}")
        if turn["from"] == SYSTEM:
            system = clean(turn["value"]).strip() or None
        elif turn["from"] in USER:
            found.append(Exchange(clean(turn["value"]), system=None if found else system))
        else:
            found[-1] = replace(found[-1], answer=clean(turn["value"] or "").strip() or None)
    return tuple(found) or Reject("bad_row", f"column {column!r} is an empty conversation")


def _problem(turn: Any, answers: bool, first: bool) -> str:
    """What is wrong with a turn, or empty. `answers`: whether there is a question for it to answer."""
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        return 'is no {"from", "value"}'
    speaker, text = turn["from"], turn["value"]
    if speaker == SYSTEM and not first:
        return "is from 'system', which only the first may be"
    if not isinstance(speaker, str) or speaker not in (*USER, *ASSISTANT, SYSTEM):
        named = repr(speaker[:50]) if isinstance(speaker, str) else f"what {is_of(speaker)}"
        return f"is from {named}; known are human and gpt"
    if speaker in ASSISTANT and not answers:
        return "is an answer, but not to a question"
    if not isinstance(text, str) and (speaker not in ASSISTANT or text is not None):
        return f"{is_of(text)}; it must be text"
    return ""


def markers(exchange: Exchange) -> int:
    """How many images a question shows."""
    return exchange.question.count(MARKER)


def parts_of(text: str) -> tuple[str | None, ...]:
    """A text in parts: None for each image marker, and the stripped texts between."""
    first, *others = (part.strip() for part in text.split(MARKER))
    return tuple(part for part in (first, *(each for other in others for each in (None, other))) if part != "")


def turns_of(earlier: tuple[Exchange, ...], prompt: str) -> tuple[Turn, ...]:
    """The turns up to a question, whose text to ask is `prompt`."""
    turns: list[Turn] = []
    left: tuple[None, ...] = ()  # images of omitted turns
    for exchange in earlier:
        parts = parts_of(exchange.question)
        if exchange.answer is None:
            left += tuple(None for part in parts if part is None)
        else:
            turns += [Turn("user", (*left, *parts)), Turn("assistant", (exchange.answer,))]
            left = ()
    return (*turns, Turn("user", (*left, *parts_of(prompt))))
