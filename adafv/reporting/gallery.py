"""The rows that the page shows, each as a card with its image and kept tokens, question and answer. A row that
stands out in several ways has one card."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from markupsafe import Markup

from adafv.reporting import drawing
from adafv.reporting.drawing import Picture
from adafv.reporting.pictures import Access, Found, find_pictures
from adafv.reporting.report import Report

KINDS = {
    "spread": "random",
    "unsure": "least confident",
    "slow": "slowest",
    "revised": "changed by a second look",
    "reject": "rejects",
}
LONGEST = 2000  # characters of a question, an answer or a path
# No image is opened that was refused, damaged or never read, or that killed its decoder.
OPENED = ("prepare", "label")
DEADLY = "prepare_died"


@dataclass
class Card:
    """A row.

    Attributes:
        anchor: the target of links to the card.
        row: a label's or a reject's columns.
        image: the drawing; None without images, and for rejects that have none.
        first_image: the same with the tokens of the first of two looks.
        problem: why the drawing has no picture.
        kinds: keys of `KINDS`.
    """

    anchor: str
    row: Mapping[str, Any]
    image: Markup | None = None
    first_image: Markup | None = None
    problem: str = ""
    kinds: list[str] = field(default_factory=list)

    @property
    def is_reject(self) -> bool:
        return "error" in self.row

    def text(self, name: str) -> str:
        """A column that may be long or null, cut for display."""
        text = self.row[name] or ""
        more = f" … ({len(text):,} characters)" if len(text) > LONGEST else ""
        return text[:LONGEST] + more

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Further facts about a label by name; for a reject, where it failed."""
        row = self.row
        if self.is_reject:
            return [
                ("stage", row["stage"]),
                ("worth a retry", "yes" if row["retryable"] else "no"),
                ("run", row["run_id"]),
            ]
        kept, seen, seconds = row["kept_tokens"], row["visual_tokens"], row["gpu_seconds"]
        facts = [
            ("image", f"the first of {len(row['images'])}" if len(row["images"] or ()) > 1 else None),
            ("tokens kept", f"{kept:,} of {seen:,} ({kept / seen:.1%})" if kept is not None and seen else None),
            ("asked again", None if row.get("looks") != 2 else self._asked_again()),
            ("confidence", None if self.confidence is None else f"{self.confidence:.2f}"),
            ("took", None if seconds is None else f"{1000 * seconds:,.0f} ms"),
            ("answer", None if row["output_tokens"] is None else f"{row['output_tokens']:,} tokens"),
            ("strategy", row["strategy"]),
            ("run", row["run_id"]),
        ]
        return [(name, value) for name, value in facts if value is not None]

    def _asked_again(self) -> str:
        sure, kept = self.row["first_confidence"], self.row["first_kept_indices"] or []
        return f"after {len(kept):,} tokens" + (
            "" if sure is None else f" and a confidence of {_probability(sure):.2f}"
        )

    @property
    def confidence(self) -> float | None:
        """The mean probability of the answer's tokens."""
        sure = self.row["mean_logprob"]
        return None if sure is None else _probability(sure)

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many tokens were kept for each cue."""
        return drawing.counts(self.row)


def make_gallery(report: Report, access: Access | None) -> list[Card]:
    """The cards. Images are fetched with `access`; None leaves them out."""
    cards: dict[str, Card] = {}
    for kind, rows in shown(report).items():
        for row in rows:
            anchor = anchor_of(row["id"], row["image"], kind == "reject")
            cards.setdefault(anchor, Card(anchor, row)).kinds.append(kind)
    if access is not None:
        wanted = [card.row for card in cards.values() if _may_be_opened(card.row)]
        configs = {held.run.run_id: held.run.config for held in report.held}
        _draw(list(cards.values()), find_pictures(wanted, configs, access))
    return list(cards.values())


def shown(report: Report) -> dict[str, list[dict[str, Any]]]:
    """The rows of each of `KINDS`."""
    labels = report.labels
    kinds = {
        "spread": labels.spread,
        "unsure": labels.unsure,
        "slow": labels.slow,
        "revised": labels.second_looks.revised,
    }
    return {kind: some.rows for kind, some in kinds.items()} | {"reject": report.rejects}


def anchor_of(id: str | None, place: str | None, reject: bool = False) -> str:
    """The anchor of a row's card: the id if it is plain, else a digest of the id, or of the place if there is no id."""
    plain = id is not None and re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", id) is not None
    named = f"place {place}" if id is None else f"id {id}"
    name = id if plain else "~" + blake2b(named.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return f"{'reject' if reject else 'row'}-{name}"


def _may_be_opened(row: Mapping[str, Any]) -> bool:
    if "error" not in row:
        return row["images"] != []  # text alone
    return row["stage"] in OPENED and row["error"] != DEADLY


def _draw(cards: list[Card], found: Mapping[str, Found]) -> None:
    for number, card in enumerate(cards):
        opened = _may_be_opened(card.row)
        # A repeated id's reject has the id of a row whose picture may be there.
        picture = found.get(card.row["id"]) if opened else None
        if isinstance(picture, Picture) or (not card.is_reject and opened):
            shown = picture if isinstance(picture, Picture) else None
            card.image = drawing.draw(shown, card.row, f"drawing-{number}")
            if "revised" in card.kinds:
                card.first_image = drawing.draw(shown, drawing.first_look(card.row), f"first-{number}")
        card.problem = picture if isinstance(picture, str) else ""


def _probability(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))
