"""Where the packages, the pictures, the trained state and the built checkpoints lie: outside the repository."""

from __future__ import annotations

from pathlib import Path

from adafv.embedded import cache_folder as shared_cache_folder


def cache_folder() -> Path:
    """`photo` in the folder that ADAFV_CACHE names, or in ~/.cache/adafv; it need not exist."""
    return shared_cache_folder() / "photo"


def unpacked_folder() -> Path:
    """What is used of the packages, as it lies in them."""
    return cache_folder() / "unpacked"


def pictures_folder() -> Path:
    return cache_folder() / "pictures"
