"""The documents' lists are the code's: columns, errors, strategies, options."""

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


def listed(text: str) -> list[str]:
    """The names in backquotes before the colons of a section's lists."""
    heads = [line.split(": ", 1)[0] for line in text.splitlines() if line.startswith("- `")]
    return [name for head in heads for name in re.findall(r"`([^`]+)`", head)]


def test_every_column_of_the_labels_is_documented_in_order():
    assert listed(section("output.md", "labels")) == schema.LABELS.names


def test_every_column_and_error_of_the_rejects_is_documented():
    assert listed(section("output.md", "rejects")) == [*schema.REJECTS.names, *ERRORS]


def test_the_errors_are_documented_as_they_are():
    text = section("output.md", "rejects")
    for name, error in ERRORS.items():
        of_stage = text.split(f"\n`{error.stage}`, ", 1)[1].split("\n`", 1)[0]
        assert f"- `{name}`: {error.meaning}{'; retryable' if error.retryable else ''}\n" in of_stage


def test_every_metric_is_documented_as_it_is():
    text = section("metrics.md", "Metrics")
    kinds = {"Counters": metrics.COUNTERS, "Gauge": metrics.GAUGES, "Histogram": metrics.HISTOGRAMS}
    for kind, named in kinds.items():
        tags = {name: f"{{{meaning.tag}}}" if meaning.tag else "" for name, meaning in named.items()}
        lines = [f"- `ray_{name}{tags[name]}`: {meaning.text}" for name, meaning in named.items()]
        assert text.split(f"\n{kind}:\n\n", 1)[1].split("\n\n", 1)[0].splitlines() == lines


def test_every_strategy_is_documented():
    assert listed(section("algorithm.md", "Strategies")) == list(STRATEGIES)


def warned() -> list[str]:
    """What the pipeline warns of: of each line the longest part that doesn't change."""
    lines = []
    for path in sorted((ROOT / "adafv" / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("LOG.warning", "LOG.error"):
                said = node.args[0]
                parts = re.split(r"%\w", said.value) if isinstance(said, ast.Constant) else [""]
                lines.append(max(parts, key=len).strip(" ()"))
    return [line for line in lines if line]


@pytest.mark.parametrize("line", warned())
def test_every_warning_of_the_log_is_explained(line):
    assert line in " ".join(section("operations.md", "What the log says").split())


def test_every_exit_status_is_explained():
    assert re.findall(r"^- (\d), ", section("operations.md", "Exit status"), re.M) == ["0", "1", "2", "3", "4"]


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
        "--repeated",
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


PARSERS = {"label": label_parser, "calibrate": command_parser, "report": report_parser, "export": export_parser}
README = re.findall(r"^adafv (\w+) (.*)$", (ROOT / "README.md").read_text().replace("\\\n", " "), re.M)


@pytest.mark.parametrize(("command", "words"), README, ids=lambda text: text[:24])
def test_the_readmes_commands_are_taken(command, words):
    assert PARSERS[command]().parse_args(shlex.split(words, comments=True))


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
    wanted = {"pandas": "ü", "duckdb": "('none', 1, 10.0)", "datasets": "1\n"}
    assert wanted[re.search(r"import (\w+)", code)[1]] in process.stdout


def test_there_are_snippets():
    assert len(SNIPPETS) == 3


def explained(command: str) -> list[str]:
    """The examples in docs/options.md of a command's options, one to a line."""
    return re.findall(r"^- `(--[^`]+)`: ", section("options.md", command), re.M)


OPTIONS = pytest.mark.parametrize(("command", "parser"), PARSERS.items())


@OPTIONS
def test_of_an_option_the_page_says_what_its_help_says(command, parser):
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", section("options.md", command))  # links by their words
    said = dict(re.findall(r"^- `(--[\w-]+)[^`]*`: (.*(?:\n  .*)*)", text, re.M))
    switch = " (default: %(default)s)"  # which argparse adds to that of a switch
    helped = {
        [*action.option_strings, action.dest][0]: (
            action.help.removesuffix(switch) if action.nargs == 0 else action.help
        )
        % vars(action)
        for action in parser()._actions
    }
    assert said
    for name, words in said.items():
        assert " ".join(words.replace("`", "").split()) == helped[name], name


@OPTIONS
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
        parser().parse_args([*words, *(["--"] if words[0] == "--input" and command == "report" else []), *needed])


def test_every_benchmark_is_listed():
    assert re.findall(r"`(\w+)`", section("options.md", "bench")) == list(COMMANDS)


def test_the_tests_that_the_security_page_names_exist():
    for names in re.findall(r"(?<!adafv)\[([\w/., \n]+)\](?!\()", (ROOT / "docs" / "security.md").read_text()):
        for name in names.split(","):
            assert (ROOT / "tests" / name.strip()).exists(), name
