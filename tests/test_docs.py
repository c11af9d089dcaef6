"""The documents' tables are the code's: columns, errors, strategies, options."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path

import pytest

from adafv.calibration.options import command_parser
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs import schema
from adafv.pipeline.rejects import ERRORS
from adafv.pruning import STRATEGIES
from jobs.bench import COMMANDS
from jobs.report import make_parser as report_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def bench_options() -> set[str]:
    parsers = []
    for add in COMMANDS.values():
        parsers.append(argparse.ArgumentParser())
        add(parsers[-1])
    return {option for parser in parsers for option in re.findall(r"--[a-z][a-z-]+", parser.format_help())}


def section(page: str, title: str) -> str:
    """What stands under a heading of docs/`page`."""
    text = (ROOT / "docs" / page).read_text()
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> list[str]:
    """The names in backquotes in the first cells of a section's tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_column_of_the_labels_is_documented_in_order():
    assert first_column(section("output.md", "labels")) == schema.LABELS.names


def test_every_column_and_error_of_the_rejects_is_documented():
    assert first_column(section("output.md", "rejects")) == [*schema.REJECTS.names, *ERRORS]


def test_the_errors_are_documented_as_they_are():
    text = section("output.md", "rejects")
    for name, error in ERRORS.items():
        retryable = "yes" if error.retryable else ""
        assert f"| `{name}` | {error.stage} | {retryable} | {error.meaning} |" in text


def test_every_strategy_is_documented():
    assert first_column(section("algorithm.md", "Strategies")) == list(STRATEGIES)


# Options of adafv.testbed's commands, of `ray job submit`, and of tests.campaign and tests.fuzz.
ELSEWHERE = {
    *("--truth", "--json", "--scenes", "--seed", "--question-types", "--stages", "--scale", "--alignment-weight"),
    *("--start", "--tower-only", "--threads", "--working-dir", "--kills", "--images", "--rows", "--only", "--ids"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_the_documents_name_exist(page):
    """Every --option on a line that runs one of jobs/, or named in running text."""
    known = {"--" + item.name.replace("_", "-") for item in fields(JobOptions)} | {"--config", "--help"}
    known |= set(re.findall(r"--[a-z][a-z-]+", command_parser().format_help()))
    known |= bench_options() | set(re.findall(r"--[a-z][a-z0-9-]+", report_parser().format_help()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
    assert named <= known | ELSEWHERE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
