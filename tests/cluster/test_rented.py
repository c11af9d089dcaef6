"""Recipes for one job on a rented GPU. SkyPilot and Hugging Face aren't asked: what can be known without them is that
their own command line takes ours, and that the job's takes what they start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from adafv.commands.label import command_parser
from adafv.pipeline.arguments import job_options, parse_arguments
from adafv.pipeline.options import JobOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
TASK = yaml.safe_load((ROOT / "cluster" / "skypilot.yaml").read_text())


def commands(script: str) -> list[list[str]]:
    return [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.strip()]


def taken(words: list[str]) -> JobOptions:
    """The options of `adafv label`, as it checks them before a job starts."""
    at = words.index("label")
    assert words[at - 1].rpartition("/")[2] == "adafv"
    return job_options(parse_arguments(command_parser(), words[at + 1 :]))


def test_skypilot_starts_a_job_that_can_resume():
    [words] = commands(TASK["run"])
    options = taken(words)
    assert options.output.startswith("s3://"), "a spot machine's own disk goes with it"
    assert options.engine.device == "cuda" and TASK["resources"]["use_spot"]
    assert (ROOT / TASK["workdir"]).resolve() == ROOT


def test_skypilot_installs_what_a_clone_has():
    """The tested PyTorch and pins, in a Python that the package takes, where the run finds it."""
    lines = commands(TASK["setup"])
    (torch,) = re.findall(r"^TORCH *\?= (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    installed = [words for words in lines if "--constraint" in words]
    assert any(torch in words for words in lines) and len(installed) == 1
    assert (ROOT / installed[0][installed[0].index("--constraint") + 1]).exists()
    extra = re.fullmatch(r"\.\[(\w+)\]", installed[0][-1])[1]
    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    assert TASK["run"].startswith("~/adafv/bin/") and all("~/adafv" in words for words in lines[1:])


def test_hugging_face_takes_the_page_s_command():
    (command,) = re.findall(r"^(hf jobs run (?:.*\\\n)*.*)$", PAGE, re.M)
    [words] = commands(command)
    words.insert(3, "--dry-run")
    code = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    environment = dict.fromkeys(re.findall(r"--secrets (\w+)", command), "x") | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words[1:]], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (started,) = re.findall(r"adafv label [^\n]*", done.stdout)
    assert taken(shlex.split(started)) == taken(words)
