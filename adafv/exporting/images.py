"""What an exported file says of an image, so that whoever reads the file finds the image.

A label names its image by path or URI. Trainers and captioning tools want a path within one folder, which they are
given apart from the file: so a path under one of the roots is written relative to it. Label Studio wants something that
a browser can load, or a URI of a store that it is connected to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from adafv.pipeline.errors import UsageError
from adafv.pipeline.uris import has_scheme

LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves what lies under its document root


@dataclass(frozen=True)
class Images:
    """Names of images.

    Attributes:
        roots: folders and prefixes, as `of` gives them.
    """

    roots: tuple[str, ...] = ()

    @classmethod
    def of(cls, roots: Sequence[str]) -> Images:
        """With each root as it would stand in front of a path; local ones in full, as the labels have them."""
        whole = (root if has_scheme(root) else os.path.abspath(root) for root in roots)
        return cls(tuple(root.rstrip("/") + "/" for root in whole))

    def relative(self, image: str) -> str:
        """`image` within the root that it lies under; as it is where it lies under none."""
        return next((image.removeprefix(root) for root in self.roots if image.startswith(root)), image)

    def url(self, image: str) -> str:
        """What Label Studio can load: a URI as it is, a path under its document root through its own server.

        Raises:
            UsageError: a local path lies under no root, so that nobody knows where it would be served.
        """
        if has_scheme(image):
            return image
        path = self.relative(image)
        if os.path.isabs(path) or not self.roots:
            raise UsageError(
                f"the image {image!r} is a local path: give --image-root, the folder that Label Studio serves "
                "(LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), and which it lies under"
            )
        return LOCAL_FILES + quote(path)
