"""Where visual tokens lie: in the language model's packed sequence, and on the image.

Any-resolution models cut an image into crops, encode each, and pack the patches: the base crop, then the other crops'
patches row by row over the whole image, without padding, a newline embedding after each row. We never re-derive
that order. The model's own packing code is run over an index tensor instead, and what comes out says for each place of
the sequence which patch of which crop stands there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A rectangle of visual tokens, row-major, and the part of the image it covers.

    A sample's tokens are its panels' one after the other: token t of a panel lies in row t // columns. `top`, `left`,
    `bottom` and `right` are fractions of the image's height and width; they exceed [0, 1] by the part of a token that
    lies on padding. By default it covers the whole image.
    """

    rows: int
    columns: int
    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Geometry:
    """The packed sequence of one image size.

    Attributes:
        crops: C, how many crops the image is cut into.
        source: int64 [L], for each place of the packed sequence the patch that stands there, as crop * P + patch, or
            -1 for a newline embedding. Where the family arranges patches anew, the row of the table that it makes.
        panels: where the N visual tokens lie on the image; none where nobody knows.
        cuts: before which places of the packed sequence the prompt has text in between; none in most families.
        positions: int64 [3, L], of families that count positions in three dimensions (M-RoPE): each place's, counted
            from where the image begins. None where each place is one further than the place before.
        text: what the model's processor writes for the image, where that isn't told by the family.
    """

    crops: int
    source: np.ndarray
    panels: tuple[Panel, ...]
    cuts: tuple[int, ...] = ()
    positions: np.ndarray | None = None
    text: str = ""

    @property
    def runs(self) -> int:
        """In how many pieces the packed sequence stands in the prompt."""
        return len(self.cuts) + 1

    @property
    def is_token(self) -> np.ndarray:
        """bool [L], False where a newline embedding stands."""
        return self.source >= 0

    @property
    def visual_tokens(self) -> int:
        """N, newline embeddings not counted."""
        return int(self.is_token.sum())

    @property
    def newlines(self) -> int:
        """How many newline embeddings the packed sequence holds."""
        return len(self.source) - self.visual_tokens

    @property
    def extent(self) -> int:
        """How many positions the image takes of its sequence, unpruned."""
        return len(self.source) if self.positions is None else int(self.positions.max()) + 1

    @property
    def patches(self) -> np.ndarray:
        """int64 [N]: `source` of each visual token."""
        return self.source[self.is_token]

    @property
    def neighbours(self) -> np.ndarray:
        """int64 [N, 9]: for each visual token those in the 3 × 3 window around it, row by row, itself in the middle; -1
        where its panel ends. Tokens whose places nobody knows have none around them.
        """
        if not self.panels:
            alone = np.full((self.visual_tokens, 9), -1)
            alone[:, 4] = np.arange(self.visual_tokens)
            return alone
        return _neighbours(tuple((panel.rows, panel.columns) for panel in self.panels))


@lru_cache
def _neighbours(sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """`Geometry.neighbours` of panels of so many rows and columns."""
    windows, start = [], 0
    for rows, columns in sizes:
        tokens = np.arange(start, start + rows * columns).reshape(rows, columns)
        windows.append(sliding_window_view(np.pad(tokens, 1, constant_values=-1), (3, 3)).reshape(-1, 9))
        start += tokens.size
    return np.concatenate(windows)


def tiled(rows: int, columns: int, per_side: int, covered: float, text_between: bool = False) -> Geometry:
    """An image that is stretched to a whole number of tiles, which come row by row, and behind them the whole image
    as one more crop. Where one tile is enough, it is the whole image.

    Args:
        rows, columns: of tiles.
        per_side: how many visual tokens stand side by side in a crop.
        covered: which share of a crop's side they cover: what is left over is at its right and bottom.
        text_between: whether the prompt has text between the crops.
    """
    places = [(row, column, rows, columns) for row in range(rows) for column in range(columns)]
    if len(places) > 1:
        places.append((0, 0, 1, 1))
    panels = tuple(
        Panel(
            rows=per_side,
            columns=per_side,
            top=row / down,
            left=column / across,
            bottom=(row + covered) / down,
            right=(column + covered) / across,
        )
        for row, column, down, across in places
    )
    per_crop = per_side * per_side
    cuts = tuple(range(per_crop, per_crop * len(panels), per_crop)) if text_between else ()
    return Geometry(crops=len(panels), source=np.arange(per_crop * len(panels)), panels=panels, cuts=cuts)
