"""The documents' tables are the code's: columns, errors, strategies, options."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adafv.bench.command import COMMANDS
from adafv.calibration.options import command_parser
from adafv.commands.export import make_parser as export_parser
from adafv.commands.label import command_parser as label_parser
from adafv.commands.report import make_parser as report_parser
from adafv.pipeline import schema
from adafv.pipeline.options import option_fields
from adafv.pipeline.record import metrics
from adafv.pipeline.rejects import ERRORS
from adafv.pruning import STRATEGIES
from tests.reporting.outputs import label, run, write

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


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


def test_every_metric_is_documented_as_it_is():
    kinds = {"counter": metrics.COUNTERS, "gauge": metrics.GAUGES, "histogram": metrics.HISTOGRAMS}
    text = section("metrics.md", "Metrics")
    lines = [
        f"| `ray_{name}` | {kind} | {f'`{meaning.tag}`' if meaning.tag else ''} | {meaning.text} |"
        for kind, named in kinds.items() for name, meaning in named.items()
    ]  # fmt: skip
    assert [line for line in text.splitlines() if line.startswith("| `")] == lines


def test_every_strategy_is_documented():
    assert first_column(section("algorithm.md", "Strategies")) == list(STRATEGIES)


def logged() -> list[str]:
    """What the pipeline logs: of each line the longest part that doesn't change."""
    lines = []
    for path in sorted((ROOT / "adafv" / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("LOG.info", "LOG.warning", "LOG.error"):
                said = node.args[0]
                parts = re.split(r"%\w", said.value) if isinstance(said, ast.Constant) else [""]
                lines.append(max(parts, key=len).strip(" ()"))
    return [line for line in lines if line]


@pytest.mark.parametrize("line", logged())
def test_every_line_of_the_log_is_explained(line):
    assert line in " ".join(section("operations.md", "What the log says").split())


def test_every_exit_status_is_explained():
    assert re.findall(r"^\| (\d) \|", section("operations.md", "Exit status"), re.M) == ["0", "1", "2", "3", "4"]


# Options of adafv.worlds.drawn's commands, of `ray job submit` and `ray start`, and of tests.campaign and tests.fuzz.
ELSEWHERE = {
    *(
        "--truth",
        "--json",
        "--scenes",
        "--size",
        "--seed",
        "--question-types",
        "--schemas",
        "--stages",
        "--scale",
        "--alignment-weight",
    ),
    *(
        "--start",
        "--tower-only",
        "--threads",
        "--working-dir",
        "--entrypoint-num-cpus",
        "--from-env-file",
        "--head",
        "--address",
        "--temp-dir",
        "--metrics-export-port",
        "--kills",
        "--images",
        "--rows",
        "--schemas",
        "--only",
        "--ids",
    ),
}


OURS = r"jobs/|\badafv (?=label|calibrate|report|export|bench)"


def ours(commands: str) -> str:
    """Of a block of commands what follows the name of one of ours: other tools' options are theirs."""
    lines = commands.replace("\\\n", " ").splitlines()
    return "\n".join(re.split(OURS, line, maxsplit=1)[1] for line in lines if re.search(OURS, line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_the_documents_name_exist(page):
    """Every --option on a line that runs one of our commands, or named in running text."""
    known = {"--" + name.replace("_", "-") for name in option_fields()} | {"--config", "--help"}
    known |= bench_options()
    for parser in (label_parser(), command_parser(), report_parser(), export_parser()):
        known |= set(re.findall(r"--[a-z][a-z0-9-]+", parser.format_help()))
    text = re.sub(r"```\n(.*?)```", lambda block: ours(block[1]), page.read_text(), flags=re.S)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= known | ELSEWHERE


def test_commands_have_one_name():
    """`adafv label`; scripts of jobs/ only where a job is submitted from a checkout, and in records of the past."""
    old = {"CHANGELOG.md", "cluster.md", "options.md"}
    pages = [page for page in PAGES if page.parent.name != "measurements" and page.name not in old]
    assert not [page.name for page in pages if re.search(r"jobs/\w+\.py", page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target, heading in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text()):
        assert (page.parent / target).exists(), target
        if heading:
            assert heading in headings(page.parent / target if target else page), f"{target}#{heading}"


def headings(page: Path) -> set[str]:
    """A page's headings as links name them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


SNIPPETS = [
    code for code in re.findall(r"```python\n(.*?)```", section("output.md", "Reading it"), re.S) if "s3:" not in code
]


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: re.search(r"import (\w+)", code)[1])
def test_other_tools_read_the_labels_as_the_document_says(tmp_path, code):
    """Each snippet as it stands, on an output with all kinds of columns, in a process that has no network to ask."""
    full = {"kept_indices": [1, 5], "grid": [{"rows": 2, "columns": 5, "top": 0, "left": 0, "bottom": 1, "right": 1}]}
    labels = [label("ü", finish_reason="length", **full), label("b", mean_logprob=None), label("c", strategy="none")]
    write(tmp_path / "out", labels, [run()], files=2)
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    wanted = {"pandas": "ü", "duckdb": "('none', 1, 10.0)", "datasets": "1\n", "pyarrow": "2\n1\n"}
    assert wanted[re.search(r"import (\w+)", code)[1]] in process.stdout


def test_there_are_snippets():
    assert len(SNIPPETS) == 4


def explained(command: str) -> list[str]:
    """The examples in docs/options.md of a command's options, one to a line."""
    return re.findall(r"^- `(--[^`]+)`: ", section("options.md", command), re.M)


@pytest.mark.parametrize(
    ("command", "parser"),
    [("label", label_parser), ("calibrate", command_parser), ("report", report_parser), ("export", export_parser)],
)
def test_every_option_has_an_example_that_the_command_takes(command, parser):
    known = set(re.findall(r"--[a-z][a-z0-9-]+", parser().format_usage()))
    shared = {name for action in label_parser()._actions for name in action.option_strings}
    text = section("options.md", command)
    missing = {name for name in known if not re.search(rf"`{name}[ `]", text)}
    assert missing - (shared if command == "calibrate" else set()) == set()
    assert explained(command)
    for example in explained(command):
        words = shlex.split(example)
        needed = {"report": ["out"], "export": ["out", "--to", "x", "--format", "jsonl"]}.get(command, [])
        assert words[0] in known, example
        parser().parse_args([*words, *(["--"] if words[0] == "--input" and needed else []), *needed])


def test_every_option_of_the_benchmarks_is_listed():
    text = section("options.md", "bench")
    shared = set(re.findall(r"--[a-z][a-z0-9-]+", label_parser().format_help())) | {"--json"}
    for name, add in COMMANDS.items():
        parser = argparse.ArgumentParser()
        add(parser)
        [row] = [line for line in text.splitlines() if line.startswith(f"- `{name}`: ")]
        own = set(re.findall(r"--[a-z][a-z0-9-]+", parser.format_usage())) - shared
        assert own <= set(re.findall(r"--[a-z-]+", row)), name


def test_the_tests_that_the_security_page_names_exist():
    for names in re.findall(r"(?<!adafv)\[([\w/., \n]+)\](?!\()", (ROOT / "docs" / "security.md").read_text()):
        for name in names.split(","):
            assert (ROOT / "tests" / name.strip()).exists(), name
