"""The table that closes the log."""

from __future__ import annotations

from collections import Counter

from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.run_record import RunRecord
from adafv.pipeline.record.tally import Tally


def table(**counts) -> dict[str, str]:
    """Its lines by name."""
    run = RunRecord(run_id="r", config={"max_new_tokens": 48}, tariff=Tariff(None), output="out", tally=Tally(**counts))
    return {line[2:].split("  ")[0].strip() or line.split()[0]: line for line in run.table().splitlines()}


def test_it_says_how_many_answers_were_cut_off_and_what_to_try():
    lines = table(labelled=40, truncated=3, flags=Counter(cut=3, loop=2), rejected=Counter(answer_incomplete=10))
    assert lines["cut"].endswith("3 (7.5%) by --max-new-tokens 48; try 96")
    assert lines["answer_incomplete"].endswith("10 (20.0%) by --max-new-tokens 48; try 96")
    assert lines["loop"].split()[-1] == "2"


def test_where_none_was_it_says_nothing_of_it():
    assert not any("max-new-tokens" in line for line in table(labelled=40, rejected=Counter(image_corrupt=1)).values())
