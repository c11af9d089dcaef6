"""A report of many labels is measured on an output that is one."""

from __future__ import annotations

import json

from adafv.bench import report
from adafv.reporting.report import make_report
from jobs.bench import main


def test_what_is_written_is_an_output_in_every_column(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROWS", 40)
    report.write_data(tmp_path, 200)
    found = make_report(tmp_path / "output", price_per_hour=1.0)
    assert (found.labelled, found.rejected, found.count.duplicates, len(found.held)) == (200, 5, 0, 3)
    assert not found.cost.exact and found.cost.true == found.cost.attributed + found.cost.idle
    for row in found.labels.spread.rows:
        assert len(row["kept_indices"]) == len(row["kept_cues"]) == row["kept_tokens"] == report.KEPT
        assert row["kept_indices"] == sorted(set(row["kept_indices"])) and row["visual_tokens"] == report.SIDE**2


def test_measuring(tmp_path, capsys):
    path = tmp_path / "m.json"
    assert main(["report", "--rows", "300", "--folder", str(tmp_path), "--json", str(path)]) == 0
    [found] = json.loads(path.read_text())["report"]
    assert found["rows"] == 300 and found["report_seconds"] > 0 and 30 * 2**20 < found["peak_bytes"] < 2**30
    assert found["page_bytes"] > 30_000 and "300" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["m.json"], "the data is removed again"
