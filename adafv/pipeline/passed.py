"""Input that makes no row, counted by kind and reason, so that nothing is skipped silently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from adafv.pipeline.redaction import clean, public_uri, shorten

EXAMPLE_LIMIT = 300  # characters


@dataclass(frozen=True, slots=True)
class Passed:
    """Items of one kind, passed over for one reason.

    Attributes:
        what: a plural noun, such as "files".
        why: a clause to follow "because".
        example: the first item, without secrets.
    """

    what: str
    why: str
    count: int
    example: str

    def __str__(self) -> str:
        what = self.what if self.count != 1 else " ".join(word.removesuffix("s") for word in self.what.split())
        return f"{self.count:,} {what}, because {self.why} (such as {self.example})"


class PassedOver:
    def __init__(self, entries: Iterable[Passed] = ()) -> None:
        self._entries: dict[tuple[str, str], Passed] = {}
        self.update(entries)

    def __iter__(self) -> Iterator[Passed]:
        return iter(self._entries.values())

    def add(self, what: str, why: str, example: str, count: int = 1) -> None:
        """Count items. `example`: the first one, as it stands in the input."""
        held = self._entries.get((what, why))
        if held is None:
            shown = "".join(c if c.isprintable() else " " for c in public_uri(clean(example)))
            held = Passed(what, why, 0, shorten(shown, EXAMPLE_LIMIT))
        self._entries[what, why] = replace(held, count=held.count + count)

    def update(self, entries: Iterable[Passed]) -> None:
        for entry in entries:
            self.add(entry.what, entry.why, entry.example, entry.count)

    def total(self, what: str | None = None) -> int:
        """How many items were passed over, of one kind or in all."""
        return sum(entry.count for entry in self if what in (None, entry.what))
