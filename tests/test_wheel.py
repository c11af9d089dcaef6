"""The wheel: what is in it, and that `adafv` works from it where there is no checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from adafv import __version__
from adafv.embedded import EMBEDDED
from tests.pipeline.inputs import write_images
from tests.services import without_ray

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("adafv", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build/ in its source, and would put what an older one holds in the wheel.
    By the setuptools of the tests' environment, so that nothing is downloaded."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    [built] = folder.iterdir()
    return built


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel in it, which finds all else in the tests' own."""

    folder: Path

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        program = self.folder / "bin" / command[0]
        return subprocess.run(
            [program, *command[1:]], cwd=cwd, env=without_ray(), capture_output=True, text=True, timeout=600
        )


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip("--python", folder / "bin" / "python", "install", wheel)
    # Lines of a .pth file add folders without reading the .pth files in them, an editable adafv's among them.
    [packages] = folder.glob("lib/python*/site-packages")
    others = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    (packages / "tests.pth").write_text("\n".join(others))
    return Environment(folder)


def pip(*arguments: str | Path) -> None:
    alone = ("--no-deps", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", *map(str, arguments), *alone]
    done = subprocess.run(command, env=without_ray(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_in_the_wheel(wheel):
    """The package with its pages and models; neither benchmarks, nor worlds, nor tests, nor the scripts."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    tops = {"/".join(name.split("/")[:2]) for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in tops} == {"adafv"}
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "adafv").iterdir()}
    assert wanted - tops - {"adafv/__pycache__"} == {"adafv/bench", "adafv/worlds"} and tops <= wanted
    for model in EMBEDDED:
        folder = REPOSITORY / "adafv" / "embedded" / model
        assert {path.relative_to(REPOSITORY).as_posix() for path in folder.iterdir()} <= names
    pages = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "adafv").rglob("*.html")}
    assert pages and pages <= names
    assert any(name.endswith("/LICENSE") for name in names)
    about = Parser().parsestr(metadata)
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("adafv", __version__, "Apache-2.0")


def test_a_folder_of_images_is_labelled_from_any_folder(environment, tmp_path):
    """Made-up images, the embedded model, and then each other command on what came out."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    images = {path.name for path in write_images(tmp_path / "images").iterdir()}
    where = environment.run("python", "-c", "import adafv; print(adafv.__file__)", cwd=elsewhere)
    assert Path(where.stdout.strip()).is_relative_to(environment.folder)
    job = ["--input", str(tmp_path / "images"), "--prompt", "what color is the star?", "--output", "out"]
    labelled = environment.run("adafv", "label", *job, cwd=elsewhere)
    assert labelled.returncode == 0, labelled.stderr
    rows = ds.dataset(elsewhere / "out" / "labels").to_table().to_pylist()
    assert sorted(Path(row["image"]).name for row in rows) == sorted(images)
    assert f"labelled {len(rows)}\n" in re.sub(" +", " ", labelled.stdout)
    assert all(row["answer"] and 0 < len(row["kept_indices"]) < row["visual_tokens"] for row in rows)
    report = environment.run("adafv", "report", "out", "--html", "page.html", cwd=elsewhere)
    assert report.returncode == 0 and (elsewhere / "page.html").is_file(), report.stderr
    exported = environment.run("adafv", "export", "out", "--format", "jsonl", "--to", "labels.jsonl", cwd=elsewhere)
    assert exported.returncode == 0, exported.stderr
    assert len((elsewhere / "labels.jsonl").read_text().splitlines()) == len(rows)


def test_benchmarks_come_with_the_repository(environment, tmp_path):
    bench = environment.run("adafv", "bench", "quality", cwd=tmp_path)
    assert bench.returncode == 2 and "benchmarks come with the repository" in bench.stderr
    assert len(bench.stderr.splitlines()) == 1
    listed = environment.run("python", "-m", "adafv", "--help", cwd=tmp_path)
    assert listed.returncode == 0 and "calibrate" in listed.stdout
