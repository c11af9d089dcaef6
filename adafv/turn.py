"""What one side of a conversation says. On its own, since it travels from a data set to the model's chat template, past
processes that have no need of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says.

    Attributes:
        role: `user` or `assistant`; of a conversation's first turn also `system`.
        parts: its texts, and None where an image stands.
    """

    role: str
    parts: tuple[str | None, ...]

    @classmethod
    def asking(cls, question: str, images: int = 1) -> Turn:
        """A question about so many images, which stand before it."""
        return cls("user", (*[None] * images, question))

    @property
    def images(self) -> int:
        """How many it shows."""
        return self.parts.count(None)
