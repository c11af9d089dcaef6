"""The benchmarks' command line."""

from __future__ import annotations

import json

import pytest

from jobs.bench import main


@pytest.mark.slow
def test_ledger(tmp_path, capsys):
    assert main(["ledger", "--ids", "20001", "--folder", str(tmp_path), "--json", str(tmp_path / "f.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("       20,001") and "cores" in printed[-1]
    written = json.loads((tmp_path / "f.json").read_text())
    (figures,) = written["ledger"]
    assert figures["ids"] == 20_001 and 0 < figures["base_bytes"] <= figures["ledger_bytes"] <= figures["peak_bytes"]
    assert written["machine"]["cores"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"], "the data is removed again"


def test_without_a_benchmark_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "ledger" in capsys.readouterr().err
