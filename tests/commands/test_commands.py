"""`adafv` as a command: what it lists, what it imports, and that it is the scripts of jobs/ by another name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from adafv import __version__
from adafv.commands import COMMANDS, main
from adafv.commands.label import _too_little
from adafv.pipeline.arguments import as_called
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.run_record import RunRecord
from tests.reporting.outputs import label, write
from tests.reporting.outputs import run as record_of

REPOSITORY = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and text in said for name, text in COMMANDS.items())


def test_help_imports_no_command():
    code = """if True:
        import sys
        import adafv
        own = set(sys.modules)
        from adafv.commands import main
        try:
            main(["--help"])
        finally:
            others = {name for name in set(sys.modules) - own if name.startswith("adafv.")} - {"adafv.commands"}
            assert not others and not {"ray", "torch", "pyarrow", "yaml"} & set(sys.modules), others
        """
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "option"), [("label", "--question-column"), ("calibrate", "--min-agreement")])
def test_help_of_a_job_needs_no_ray(name, option):
    """And says what a newcomer needs, quickly: neither Ray nor torch is imported for it."""
    code = f"""if True:
        import sys
        from adafv.commands.{name} import main
        try:
            main(["--help"])
        finally:
            assert not {{"ray", "torch"}} & set(sys.modules), "imported"
        """
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit status" in done.stdout and option in done.stdout
    assert name == "label" or "--keep-tokens" not in done.stdout.split("--config takes")[0]


@pytest.mark.parametrize("arguments", [[], ["lable"], ["--labels"]])
def test_what_is_no_command_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: adafv" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"adafv {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_of_jobs_is_the_command(name):
    """They differ in their own name and in nothing else: the same options, and the same status for wrong ones."""
    script, command = run(f"jobs/{name}.py", "--help"), run("-m", "adafv", name, "--help")
    assert script.returncode == command.returncode == 0
    assert f"usage: {name}.py " in script.stdout and f"usage: adafv {name} " in command.stdout
    said = script.stdout.replace(f"{name}.py [-h]", f"adafv {name} [-h]")
    said = said.replace("python jobs/", "jobs/").replace("jobs/", "adafv ").replace(".py", "")
    assert said.split() == command.stdout.split()
    assert "jobs/" not in command.stdout
    wrong = [run(f"jobs/{name}.py", "--nonsense"), run("-m", "adafv", name, "--nonsense")]
    assert [one.returncode for one in wrong] == [2, 2]


@pytest.mark.parametrize(("name", "arguments"), [
    ("label", ["--input", "in", "--output", "out", "--keep", "7"]),
    ("calibrate", ["--input", "in", "--output", "out", "--keep", "0.5", "--metric", "exact"]),
    ("report", ["/no/such"]),
    ("export", ["/no/such", "--format", "jsonl", "--to", "labels.jsonl"]),
    ("bench", ["quality", "--metric", "exact"]),
])  # fmt: skip
def test_messages_begin_with_what_was_called(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([name, *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"adafv {name}: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_needs_no_installation(name, tmp_path):
    """Its checkout is enough: `-I` leaves PYTHONPATH out, and `installed` is found no more."""
    code = f"""if True:
        import runpy, sys
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        sys.path = [folder for folder in sys.path if folder != {str(REPOSITORY)!r}]
        sys.argv = ["{name}.py", "--help"]
        runpy.run_path({str(REPOSITORY / "jobs" / f"{name}.py")!r}, run_name="__main__")
        """
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: {name}.py" in done.stdout, done.stderr


def test_names_in_a_text_are_those_of_what_was_called():
    text = "x:\n\n    adafv label --keep 0.1\n\nas adafv label says of adafv-plus and adafv"
    assert as_called(text, "adafv report") == text
    said = "x:\n\n    python jobs/label.py --keep 0.1\n\nas jobs/label.py says of adafv-plus and adafv"
    assert as_called(text, "report.py") == said


def test_where_benchmarks_are_not_installed_a_sentence_says_where_they_are(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr("adafv.commands.bench.find_spec", lambda name: None if name == "adafv.bench" else found(name))
    for arguments in (["bench", "quality"], ["bench", "--help"]):
        assert main(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("adafv bench: benchmarks come with the repository")


def test_too_little_agreement_never_looks_enough():
    """Rounded, 0.97997 would be 0.98."""
    record = RunRecord(run_id="r", config={}, tariff=Tariff(None), output="out")
    rows = [
        {"image": str(n % 7), "images": None, "answer": "a", "audit_answer": "b" if n < 601 else "a"}
        for n in range(30_000)
    ]
    record.tally.audit.add(pa.Table.from_pylist(rows))
    assert record.agrees_too_little(0.98) and "30,000 audited rows agree 0.9799 [" in _too_little(record, 0.98)


def test_ids_left_out_of_an_export_cant_control_the_terminal(tmp_path, capsys):
    output = write(tmp_path / "out", [label("a\x1b[2J\nb", model="Qwen2.5-VL")], [record_of()])
    assert main(["export", output, "--format", "coco-detections", "--to", str(tmp_path / "x.json")]) == 0
    assert "  a [2J b: it was labelled by an older version" in capsys.readouterr().out
