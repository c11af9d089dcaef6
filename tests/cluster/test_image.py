"""The image's recipe, as far as it can be tried without building it: its syntax, what it copies, the versions in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import dockerfile

from tests.services import PROGRAMS

ROOT = Path(__file__).parents[2]
PATH = ROOT / "cluster" / "Dockerfile"
COMMANDS = dockerfile.parse_file(str(PATH))
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


def test_hadolint_has_nothing_to_say():
    done = subprocess.run([str(PROGRAMS / "hadolint"), "--no-color", str(PATH)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_copied_is_there_and_sent_to_the_builder():
    sent = {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    assert IGNORED[1] == "*", "all else stays at home"
    copied = {source for one in COMMANDS if one.cmd.lower() == "copy" and not one.flags for source in one.value[:-1]}
    assert {source.split("/")[0] for source in copied} == sent
    for source in copied:
        assert (ROOT / source).exists(), source
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", *copied], cwd=ROOT, capture_output=True, text=True, check=True)
        assert all(any(line.startswith(source) for line in listed.stdout.splitlines()) for source in copied)


def test_versions_are_those_of_the_tests():
    values = dict(one.value[0].split("=", 1) for one in COMMANDS if one.cmd.lower() == "arg")
    assert f"torch=={values['TORCH']}" in (ROOT / "Makefile").read_text()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", values["PYTHON"]), "not a patch release of the tests' Python"
    installs = [one.value[0] for one in COMMANDS if one.cmd.lower() == "run" and "pip install" in one.value[0]]
    assert len(installs) == 3
    for install in installs:
        assert re.search(r"torch==|--constraint constraints.txt|--no-deps", install), "installs what isn't pinned"


def test_the_image_runs_as_a_user_whose_number_the_pods_name():
    last = {one.cmd.lower(): one.value[0] for one in COMMANDS}
    assert last["user"] == "1000:1000" and last["workdir"] == "/home/adafv"
    assert last["from"] == "${PYTHON}", "the compilers and caches of the first stage stay there"
    assert not any(re.search(r"secret|token|password|aws_", one.original, re.IGNORECASE) for one in COMMANDS)
