"""How an image is named in an exported file."""

from __future__ import annotations

import pytest

from adafv.exporting.images import Images, LabelImage
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
    assert Images.of(roots).relative(LabelImage(image)) == relative


def test_a_local_root_may_be_given_relative_to_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Images.of(["photos"]).relative(LabelImage(f"{tmp_path}/photos/a.jpg")) == "a.jpg"


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("s3://b/a b.jpg", "s3://b/a b.jpg"),
        ("/data/x/a b&c.jpg", "/data/local-files/?d=x/a%20b%26c.jpg"),
        ("a#1.jpg", "/data/local-files/?d=a%231.jpg"),
    ],
)
def test_what_label_studio_loads(image, url):
    assert Images.of(["/data"]).url(LabelImage(image)) == url


@pytest.mark.parametrize(("roots", "image"), [([], "/data/a.jpg"), ([], "a.jpg"), (["/data"], "/other/a.jpg")])
def test_a_local_path_that_nobody_serves_is_refused(roots, image):
    with pytest.raises(UsageError, match="give --image-root"):
        Images.of(roots).url(LabelImage(image))


def test_a_name_of_several_images_is_written_in_full():
    shown = [
        LabelImage("1.jpg", "/a/1.jpg", "k1"),
        LabelImage("1.jpg", "/b/1.jpg", "k2"),
        LabelImage("2.jpg", "/a/2.jpg", "k3"),
        LabelImage("2.jpg", "/a/2.jpg", "k3"),
        LabelImage("3.jpg", "/a/t.parquet#0", "k4"),  # rows that hold one picture, each for itself
        LabelImage("3.jpg", "/a/t.parquet#7", "k4"),
        LabelImage("4.jpg", "/a/t.parquet#1", "k5"),
        LabelImage("4.jpg", "/a/t.parquet#2", "k6"),
        LabelImage("https://x.org/i?…", "https://x.org/i?…", "k7"),  # the query told them apart
        LabelImage("https://x.org/i?…", "https://x.org/i?…", "k8"),
        LabelImage("5.jpg"),
    ]
    images = Images().with_shared_names([shown[:5], shown[5:]])
    names = [images.relative(image) for image in shown]
    assert names[:4] == ["/a/1.jpg", "/b/1.jpg", "2.jpg", "2.jpg"]
    assert names[4:8] == ["3.jpg", "3.jpg", "/a/t.parquet#1", "/a/t.parquet#2"]
    assert len({image.identity for image in shown}) == len(shown) - 2
    under = Images.of(["/a", "/b"]).with_shared_names([shown])
    assert [under.relative(image) for image in (shown[0], shown[4])] == ["1.jpg", "3.jpg"]
