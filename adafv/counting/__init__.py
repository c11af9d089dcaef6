"""A model's work on a sample, counted from its sizes. Needs nothing else, not even torch.

sizes  the sizes of a model that the count needs
work   floating-point operations and bytes, by stage
"""

from adafv.counting.sizes import Sizes
from adafv.counting.work import Model, TokenCounts, Work

__all__ = ["Model", "Sizes", "TokenCounts", "Work"]
