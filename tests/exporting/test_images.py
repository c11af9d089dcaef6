"""How an image is named in an exported file."""

from __future__ import annotations

import pytest

from adafv.exporting.images import Images
from adafv.pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("roots", "image", "relative"),
    [
        ([], "/data/a.jpg", "/data/a.jpg"),
        (["/data"], "/data/x/a.jpg", "x/a.jpg"),
        (["/data/"], "/data/x/a.jpg", "x/a.jpg"),
        (["/data"], "/database/a.jpg", "/database/a.jpg"),
        (["s3://b/p"], "s3://b/p/a.jpg", "a.jpg"),
        (["/data", "s3://b"], "s3://b/p/a.jpg", "p/a.jpg"),
        (["/data"], "a.jpg", "a.jpg"),
    ],
)
def test_paths_under_a_root_are_relative_to_it(roots, image, relative):
    assert Images.of(roots).relative(image) == relative


def test_a_local_root_may_be_given_relative_to_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Images.of(["photos"]).relative(f"{tmp_path}/photos/a.jpg") == "a.jpg"


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("s3://b/a b.jpg", "s3://b/a b.jpg"),
        ("/data/x/a b&c.jpg", "/data/local-files/?d=x/a%20b%26c.jpg"),
        ("a#1.jpg", "/data/local-files/?d=a%231.jpg"),
    ],
)
def test_what_label_studio_loads(image, url):
    assert Images.of(["/data"]).url(image) == url


@pytest.mark.parametrize(("roots", "image"), [([], "/data/a.jpg"), ([], "a.jpg"), (["/data"], "/other/a.jpg")])
def test_a_local_path_that_nobody_serves_is_refused(roots, image):
    with pytest.raises(UsageError, match="give --image-root"):
        Images.of(roots).url(image)
