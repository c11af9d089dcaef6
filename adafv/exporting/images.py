"""What an exported file says of an image, so that whoever reads the file finds the image.

A label names its image by path or URI. Trainers and captioning tools want a path within one folder, which they are
given apart from the file: so a path under one of the roots is written relative to it. Label Studio wants something that
a browser can load, or a URI of a store that it is connected to.

The name alone may be that of several images: of two inputs, each may have its own images/0001.jpg. Which image it is,
is told by where it lies, and where the input itself holds it by its pixels, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

import numpy as np

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST
from adafv.pipeline.uris import has_scheme

LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves what lies under its document root
_ROW = re.compile(r"#\d+(/\d+)?$")  # of a table that holds the image


@dataclass(frozen=True)
class Shown:
    """An image of a label.

    Attributes:
        name: its path or URI as the input has it.
        uri: where it lies in full; None in labels of earlier versions.
        key: the same for the same pixels; likewise.
    """

    name: str
    uri: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> list[Shown]:
        """The images of a label with the columns `image`, `image_uri` and `images`."""
        if row["images"] is None:
            return [cls(row["image"], row["image_uri"])]
        return [cls(each["image"], each["uri"], each["key"]) for each in row["images"]]

    @property
    def file(self) -> str | None:
        """Where it lies, if it is a file of its own."""
        held = self.uri is not None and _ROW.search(self.uri) and not self.uri.endswith(self.name.removeprefix("./"))
        return None if held else self.uri

    @property
    def identity(self) -> bytes:
        """16 bytes, the same for the same image. One that a table holds is told by the table, its name and its
        pixels: rows that ask about one image hold it once each."""
        place = self.file or _ROW.sub("", self.uri or "")
        return _digest("\0".join((place, self.name, self.key or "")))


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Images:
    """Names of images.

    Attributes:
        roots: folders and prefixes, as `of` gives them.
        shared: digests of the names that several images have.
    """

    roots: tuple[str, ...] = ()
    shared: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, roots: Sequence[str]) -> Images:
        """With each root as it would stand in front of a path; local ones in full, as the labels have them."""
        whole = (root if has_scheme(root) else os.path.abspath(root) for root in roots)
        return cls(tuple(root.rstrip("/") + "/" for root in whole))

    def knowing(self, batches: Iterable[Sequence[Shown]]) -> Images:
        """With the names that several of the images have. Takes 32 bytes for each image."""
        names, identities = [np.empty(0, DIGEST)], [np.empty(0, DIGEST)]
        for batch in batches:
            names.append(np.frombuffer(b"".join(_digest(image.name) for image in batch), DIGEST))
            identities.append(np.frombuffer(b"".join(image.identity for image in batch), DIGEST))
        found = _distinct(np.stack([np.concatenate(names), np.concatenate(identities)], axis=1))
        several = found[1:][found[1:] == found[:-1]]
        # As bytes of their full length: numpy's strings have no zeros at their ends.
        return replace(self, shared=frozenset(several.view("V16").tolist()))

    def relative(self, image: Shown) -> str:
        """The image within the root that it lies under; as its label has it where it lies under none, or in full where
        other images have that name, too."""
        for place in (image.file, image.name):
            root = next((root for root in self.roots if place is not None and place.startswith(root)), None)
            if place is not None and root is not None:
                return place.removeprefix(root)
        return image.uri if image.uri and _digest(image.name) in self.shared else image.name

    def url(self, image: Shown) -> str:
        """What Label Studio can load: a URI as it is, a path under its document root through its own server.

        Raises:
            UsageError: a local path lies under no root, so that nobody knows where it would be served.
        """
        if has_scheme(image.name):
            return image.name
        if image.file is not None and has_scheme(image.file):
            return image.file
        path = self.relative(image)
        if os.path.isabs(path) or not self.roots:
            raise UsageError(
                f"the image {image.name!r} is a local path: give --image-root, the folder that Label Studio serves "
                "(LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), and which it lies under"
            )
        return LOCAL_FILES + quote(path)


def _distinct(pairs: np.ndarray) -> np.ndarray:
    """DIGEST [N]: the first of each distinct pair [M, 2], ascending."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ordered = pairs[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.ascontiguousarray(ordered[new, 0])
