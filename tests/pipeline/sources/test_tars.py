"""Tars whose headers lie. A damaged header costs the rest of its tar, an oversized image itself."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.units import Unit
from adafv.pipeline.store.storage import Storage
from tests.pipeline.sources.test_discovery import FIXED, rows_of

DATA = b"an image"


def member(name: str, size: int | None = None, type: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    """A member with DATA, or with a header that tells another size."""
    header = tarfile.TarInfo(name)
    header.type, header.size, header.pax_headers = type, len(DATA) if size is None else size, pax
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return header.tobuf(form) + DATA.ljust(tarfile.BLOCKSIZE, b"\0")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(member("b.jpg", **{"GNU.sparse.map": "x"}), id="sparse map"),
        pytest.param(member("b.jpg", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), id="sparse without a map"),
        pytest.param(member("b.cls", 2**60), id="size"),
        pytest.param(member("b.jpg", 2**60, tarfile.GNUTYPE_LONGNAME), id="long name"),
        pytest.param(member("b.jpg", 2**60, tarfile.XHDTYPE), id="pax header"),
    ],
)
def test_a_bad_header_costs_the_rest_of_the_tar(tmp_path, bad):
    (tmp_path / "a.tar").write_bytes(member("0.jpg") + member("a.jpg") + bad + member("c.jpg"))
    *sound, rest = rows_of(tmp_path / "a.tar", wanted=FIXED)
    assert [row.id for row in sound] in (["0"], ["0", "a"]) and not any(row.reject for row in sound)
    assert rest.id is None and rest.reject.error == "source_unreadable"


def test_an_image_of_holes_is_not_filled_with_zeros(tmp_path):
    """Of terabytes, in a file of a few blocks."""
    bad = member("b.jpg", **{"GNU.sparse.map": "0,8", "GNU.sparse.size": str(2**42)})
    (tmp_path / "a.tar").write_bytes(member("a.jpg") + bad + member("c.jpg") + bytes(1024))
    first, second, third = rows_of(tmp_path / "a.tar", wanted=FIXED)
    assert first.reject is None and third.reject is None and second.reject.error == "image_too_large"
    assert [image.data for row in (first, third) for image in row.images] == [DATA] * 2


def test_the_members_read_so_far_are_not_held(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"".join(member(f"{number}.jpg") for number in range(1000)) + bytes(1024))
    unit = Unit("tar", f"{tmp_path}/a.tar")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_unit(unit, Storage(), FIXED)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 100 * 1000
    finally:
        tracemalloc.stop()


def test_a_header_is_not_held_whatever_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr("adafv.pipeline.sources.units.LINE_LIMIT", 1000)
    tars = io.BytesIO()
    with tarfile.open(fileobj=tars, mode="w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("a.jpg")
        header.pax_headers = {"comment": "x" * 2000}
        tar.addfile(header)
    (tmp_path / "a.tar").write_bytes(tars.getvalue())
    [row] = rows_of(tmp_path / "a.tar", wanted=FIXED)
    assert "has 2014 bytes; the limit is 1000" in row.reject.message
