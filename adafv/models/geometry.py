"""Where visual tokens lie: in the packed sequence that the language model reads, and on the image.

Any-resolution models cut an image into crops, encode each, and pack the patches: the base crop, then the other crops'
patches row by row over the whole picture, without padding, a newline embedding after each row. We never re-derive
that order. The model's own packing code is run over an index tensor instead, and what comes out says for each place of
the sequence which patch of which crop stands there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of visual tokens, row-major, and the part of the image it covers.

    A sample's tokens are its panels' one after the other: token t of a panel lies in row t // columns. `top`, `left`,
    `bottom` and `right` are fractions of the image's height and width; they exceed [0, 1] by the part of a token that
    lies on padding.
    """

    rows: int
    columns: int
    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """The packed sequence of one image size.

    Attributes:
        crops: C, how many crops the image is cut into.
        source: int64 [L], for each place of the packed sequence the patch that stands there, as crop * P + patch, or
            -1 for a newline embedding.
        panels: where the N visual tokens lie on the image.
    """

    crops: int
    source: np.ndarray
    panels: tuple[Panel, ...]

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
    def places(self) -> np.ndarray:
        """int64 [N, 2]: for each visual token which crop it is a patch of, and which patch of it."""
        base = self.panels[0]  # of every family one whole crop
        return np.stack(np.divmod(self.source[self.is_token], base.rows * base.columns), axis=-1)

    @property
    def neighbours(self) -> np.ndarray:
        """int64 [N, 9]: for each visual token those in the 3 × 3 window around it, row by row, itself in the middle; -1
        where its panel ends.
        """
        windows, start = [], 0
        for panel in self.panels:
            tokens = np.arange(start, start + panel.rows * panel.columns).reshape(panel.rows, panel.columns)
            windows.append(sliding_window_view(np.pad(tokens, 1, constant_values=-1), (3, 3)).reshape(-1, 9))
            start += tokens.size
        return np.concatenate(windows)
