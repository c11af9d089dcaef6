"""What a calibration is asked, and what it asks of its jobs."""

from __future__ import annotations

import pytest

from adafv.calibration.options import CalibrationOptions, parse_command
from adafv.pipeline.errors import UsageError

NEEDED = ["--input", "in", "--output", "work/"]


def parse(*arguments: str) -> CalibrationOptions:
    return parse_command([*NEEDED, *arguments], "", "").options


def test_defaults():
    options = parse()
    assert [(one.strategy, one.keep, one.job.output) for one in options.candidates()] == [
        ("none", 1.0, "work/none"),
        ("adafv-plus", 0.5, "work/adafv-plus-0.5"),
        ("adafv-plus", 0.25, "work/adafv-plus-0.25"),
        ("adafv-plus", 0.1, "work/adafv-plus-0.1"),
        ("adafv-plus", 0.05, "work/adafv-plus-0.05"),
    ]
    assert (options.agreement, options.min_agreement, options.job.sample) == ("normalised", 0.98, 500)


def test_captions_are_compared_by_their_words():
    assert parse("--prompt", "Describe the image.").agreement == "rouge-l"
    assert parse("--prompt", "Describe the image.", "--agreement", "f1").agreement == "f1"


def test_jobs_are_what_they_would_be_on_their_own():
    options = parse(
        "--keep", "0.2", "--strategies", "random,adafv", "--sample", "9", "--batch-size", "4", "--limit", "50"
    )
    jobs = [one.job for one in options.candidates()]
    assert {(job.sample, job.batch_size, job.limit, job.input) for job in jobs} == {(9, 4, 50, ("in",))}
    assert {job.sample_adjacent for job in jobs} == {1}, "many pictures say more of answers than many questions"
    assert [(job.engine.strategy, job.engine.keep) for job in jobs] == [("none", 1.0), ("random", 0.2), ("adafv", 0.2)]


def test_a_text_tower_goes_to_those_that_read_it():
    options = parse("--strategies", "adafv,cdpruner", "--keep", "0.1", "--text-tower", "clip")
    assert [one.job.engine.text_tower for one in options.candidates()] == [None, None, "clip"]


def test_the_jobs_configuration_serves_a_calibration(tmp_path):
    """What it says of strategy, budget and output is what a calibration finds out."""
    path = tmp_path / "nightly.yaml"
    path.write_text("input: there\noutput: labels\nkeep: 0.3\nstrategy: random\nbatch-size: 8\nrun-id: x\nsample: 7\n")
    path.write_text(path.read_text() + "escalate: 1.0\nescalate-flags: loop\n")
    options = parse_command(["--config", str(path), "--output", "work", "--sample", "5"], "", "").options
    assert options.job.batch_size == 8 and options.job.sample == 5 and options.job.run_id is None
    assert options.job.input == ("there",)
    assert [one.job.output for one in options.candidates()][:2] == ["work/none", "work/adafv-plus-0.5"]
    with pytest.raises(UsageError, match="--input and --output are needed"):
        parse_command(["--config", str(path)], "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-agreement", "1"], "--min-agreement is 1.0"),
        (["--min-agreement", "nan"], "--min-agreement is nan"),
        (["--keep", "0.5,2"], "--keep is '0.5,2'"),
        (["--strategies", "best"], "--strategies names 'best'"),
        (["--strategies", "none"], "--strategies names none that prunes"),
        (["--agreement", "bleu"], "--agreement is 'bleu'"),
        (["--metric", "vqa"], "--metric needs the right answers: give --answer-column"),
        (["--answer-column", "a", "--metric", "bleu"], "--metric is 'bleu'"),
        (["--min-accuracy", "0.9"], "the target, accuracy (exact) of 0.9 or more, needs the right answers"),
        (["--max-accuracy-loss", "0", "--answer-column", "a"], "--max-accuracy-loss is 0.0"),
        (
            ["--max-accuracy-loss", "0.1", "--min-accuracy", "0.1", "--answer-column", "a"],
            "a calibration has one target",
        ),
        (
            ["--max-accuracy-loss", "0.1", "--min-agreement", "0.9", "--answer-column", "a"],
            "a calibration has one target",
        ),
        (["--sample", "0"], "--sample is 0"),
        (["--text-tower", "clip"], "--text-tower is for cdpruner, eadp only"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
    ],
)
def test_wrong_values_are_named(arguments, said):
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [["--keep-tokens", "3"], ["--strategy", "adafv"], ["--sample-adjacent", "8"], ["--html", "/nowhere/x.html"]],
)
def test_options_that_calibrate_decides_are_unknown(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2 and capsys.readouterr().err
