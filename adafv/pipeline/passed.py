"""What a source shows and no row is made of: counted by what it is and why, so that nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from adafv.pipeline.redaction import clean, public_uri, shorten

EXAMPLE_LIMIT = 300  # characters


@dataclass(frozen=True, slots=True)
class Passed:
    """Things of one sort that were passed over for one reason.

    Attributes:
        what: such as files, in the plural.
        why: a clause that follows "because".
        example: where the first of them is, without secrets.
    """

    what: str
    why: str
    count: int
    example: str

    def __str__(self) -> str:
        what = self.what if self.count != 1 else self.what.removesuffix("s")
        return f"{self.count:,} {what}, because {self.why} (such as {self.example})"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class PassedOver:
    """Counts of what was passed over."""

    def __init__(self, entries: Iterable[Passed] = ()) -> None:
        self._entries: dict[tuple[str, str], Passed] = {}
        self.update(entries)

    def __iter__(self) -> Iterator[Passed]:
        return iter(self._entries.values())

    def add(self, what: str, why: str, example: str, count: int = 1) -> None:
        """Count so many more. `example`: where the first is, as it stands in the input."""
        held = self._entries.get((what, why))
        if held is None:
            shown = "".join(c if c.isprintable() else " " for c in public_uri(clean(example)))
            held = Passed(what, why, 0, shorten(shown, EXAMPLE_LIMIT))
        self._entries[what, why] = replace(held, count=held.count + count)

    def update(self, entries: Iterable[Passed]) -> None:
        for entry in entries:
            self.add(entry.what, entry.why, entry.example, entry.count)

    def total(self, what: str | None = None) -> int:
        """How many were passed over, of one sort or of all."""
        return sum(entry.count for entry in self if what in (None, entry.what))
