"""How much work a model makes of a sample, counted from its sizes. Needs nothing, not even torch.

sizes  the handful of numbers that the count needs of a model
work   floating-point operations and bytes, by stage
"""

from adafv.counting.sizes import Sizes
from adafv.counting.work import Model, TokenCounts, Work

__all__ = ["Model", "Sizes", "TokenCounts", "Work"]
