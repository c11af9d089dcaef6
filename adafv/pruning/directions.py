"""Vectors that are compared by their cosines, several times: their lengths are worked out once.

Products are divided, not vectors: they are far smaller than a copy of the vectors, and on a GPU these keep their dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.onednn import products
from adafv.pruning.selection import filled

_SHORTEST = 1e-12  # `F.normalize`'s: what is shorter has no direction, and a cosine near 0 with all


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Vectors and their lengths.

    Attributes:
        vectors: [..., N, D].
        length: float32 [..., N], NaN or infinite where a vector is.
    """

    vectors: Tensor
    length: Tensor

    @classmethod
    def of(cls, vectors: Tensor | Directions) -> Directions:
        """Those of vectors [..., N, D] in any float dtype. On a CPU, whose products would be rounded to half precision,
        in float32."""
        if isinstance(vectors, Directions):
            return vectors
        if vectors.device.type == "cpu":
            vectors = vectors.float()
        return cls(vectors, torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float32).clamp_min(_SHORTEST))

    def float(self) -> Directions:
        """The same in float32."""
        return Directions(self.vectors.float(), self.length)

    def where(self, valid: Tensor) -> Directions:
        """Like none where `valid`, bool [..., N], is False."""
        return Directions(filled(self.vectors, valid[..., None], 0.0), filled(self.length, valid, 1.0))

    def rows(self, part: slice) -> Directions:
        """Those of some samples, of [B, N, D]."""
        return Directions(self.vectors[part], self.length[part])

    def at(self, places: Tensor) -> Directions:
        """[B, C, D], of [B, N, D] those at `places`, int64 [B, C]."""
        length = self.length.gather(1, places)
        if len(places) == 1:
            return Directions(self.vectors.index_select(1, places[0]), length)
        count, width = self.vectors.shape[1:]
        first = torch.arange(0, len(places) * count, count, device=places.device)[:, None]
        rows = self.vectors.flatten(0, 1).index_select(0, (places + first).flatten())  # far faster than `gather`
        return Directions(rows.view(*places.shape, width), length)

    def in_blocks(self, size: int) -> Directions:
        """[B, ⌈N / size⌉, size, D] of [B, N, D], the last block filled up with vectors that are like none."""
        vectors, length, missing = self.vectors, self.length, -self.vectors.shape[1] % size
        if missing:
            vectors, length = F.pad(vectors, (0, 0, 0, missing)), F.pad(length, (0, missing), value=1.0)
        return Directions(vectors.unflatten(1, (-1, size)), length.unflatten(1, (-1, size)))

    def cosines(self, others: Directions) -> Tensor:
        """float32 [..., M, N]: of these [..., M, D] with the others [..., N, D]; 0 with what is like none."""
        out = _products(self.vectors, others.vectors)
        return out.div_(self.length[..., :, None]).div_(others.length[..., None, :])


def _products(left: Tensor, right: Tensor) -> Tensor:
    """float32 [..., M, N]: left @ rightᵀ. A GPU sums half precision in float32, and is told not to round the sums: the
    sixth power of a rounded cosine would keep other tokens.
    """
    if left.device.type != "cuda" or left.dtype.itemsize != 2 or left.dtype != right.dtype:
        return products(left, right).float()
    whole, other = (each.flatten(0, -3) for each in (left, right.transpose(-1, -2)))
    return torch.bmm(whole, other, out_dtype=torch.float32).unflatten(0, left.shape[:-2])
