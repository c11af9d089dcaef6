"""How an exported file names an image, so that its reader finds the image.

A label names its image by path or URI. Trainers want a path within one folder, so a path under one of the roots is
written relative to it. Label Studio wants something that a browser can load, or a URI of a connected store.

One name may be that of several images: two inputs may both have images/0001.jpg. Images are told apart by where they
are, and those inside a table by their pixels, too. If no image lies under a root, the roots hold copies, and names lead
to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.ledger import DIGEST, digest_id
from adafv.pipeline.uris import has_scheme

LOCAL_FILES = "/data/local-files/?d="  # Label Studio's URL for its document root
_ROW = re.compile(r"#\d+(/\d+)?$")  # a row of a table that holds the image


@dataclass(frozen=True)
class LabelImage:
    """An image of a label.

    Attributes:
        name: its path or URI as in the input.
        uri: its full path or URI; None in old labels.
        key: equal for equal pixels; None in old labels.
    """

    name: str
    uri: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> list[LabelImage]:
        """The images of a label with the columns `image`, `image_uri` and `images`."""
        if row["images"] is None:
            return [cls(row["image"], row["image_uri"])]
        return [cls(each["image"], each["uri"], each["key"]) for each in row["images"]]

    @property
    def file(self) -> str | None:
        """Its place, if it is a file of its own."""
        held = self.uri is not None and _ROW.search(self.uri) and not self.uri.endswith(self.name.removeprefix("./"))
        return None if held else self.uri

    @property
    def identity(self) -> bytes:
        """16 bytes, equal for the same image. An image inside a table is identified by table, name and pixels, since
        several rows may hold it."""
        place = self.file or _ROW.sub("", self.uri or "")
        return digest_id("\0".join((place, self.name, self.key or "")))


@dataclass(frozen=True)
class Images:
    """Names of images.

    Attributes:
        roots: folders and prefixes, as `of` gives them.
        shared: digests of names that several images have.
        used: whether any image lies under a root.
    """

    roots: tuple[str, ...] = ()
    shared: frozenset[bytes] = frozenset()
    used: bool = False

    @classmethod
    def of(cls, roots: Sequence[str]) -> Images:
        """With each root as the prefix of a path; local ones absolute, as in labels."""
        whole = (root if has_scheme(root) else os.path.abspath(root) for root in roots)
        return cls(tuple(root.rstrip("/") + "/" for root in whole))

    def with_shared_names(self, batches: Iterable[Sequence[LabelImage]]) -> Images:
        """With what all the images tell: names that several have, and whether any lies under a root. Takes 32 bytes per
        image."""
        names, identities, used = [np.empty(0, DIGEST)], [np.empty(0, DIGEST)], False
        for batch in batches:
            used = used or any(self._root(image.file) is not None for image in batch)
            names.append(np.frombuffer(b"".join(digest_id(image.name) for image in batch), DIGEST))
            identities.append(np.frombuffer(b"".join(image.identity for image in batch), DIGEST))
        pairs = np.stack([np.concatenate(names), np.concatenate(identities)], axis=1)
        found = np.unique(pairs.view("S32")).view(DIGEST)[::2]  # the name of each distinct pair, ascending
        several = found[1:][found[1:] == found[:-1]]
        # As V16: numpy's strings drop trailing zeros.
        return replace(self, shared=frozenset(several.view("V16").tolist()), used=used)

    def relative(self, image: LabelImage) -> str:
        """The image's path within its root; without one, its name, or its full place if the name may lead to another
        image."""
        for place in (image.file, image.name):
            root = self._root(place)
            if place is not None and root is not None:
                return place.removeprefix(root)
        outside = self.used and image.file is not None
        return image.uri if image.uri and (outside or digest_id(image.name) in self.shared) else image.name

    def _root(self, place: str | None) -> str | None:
        return next((root for root in self.roots if place is not None and place.startswith(root)), None)

    def url(self, image: LabelImage) -> str:
        """What Label Studio can load: a URI as it is, a path under its document root through its own server.

        Raises:
            UsageError: a local path is under no root.
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
