"""The command line, the configuration file, and what they refuse."""

from __future__ import annotations

import pytest

from adafv.pipeline.arguments import parse_keeps, parse_options, parse_strategies
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.run_record import public_options
from adafv.pruning import STRATEGIES

NEEDED = ["--input", "in.parquet", "--output", "out"]


def parse(*arguments: str) -> JobOptions:
    return parse_options(arguments, "", "")


def test_defaults():
    options = parse(*NEEDED)
    assert options.input == ("in.parquet",) and options.output == "out"
    assert (options.model, options.strategy, options.keep, options.prompt) == (
        "testbed",
        "adafv-plus",
        0.1,
        "{question}",
    )
    assert options.allow_http is False and options.workers is None


def test_inputs_add_up():
    assert parse("--input", "a", "b", "--input", "c", "--output", "o").input == ("a", "b", "c")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep", "0"], "--keep is 0.0"),
        (["--keep-tokens", "0"], "--keep-tokens is 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--top-p", "2"], "--top-p is 2.0"),
        (["--text-scope", "all"], "--text-scope is 'all'"),
        (["--strategy", "magic"], "--strategy is 'magic'"),
        (
            ["--text-tower", "clip"],
            "--text-tower is 'clip'; it must be left out: strategy 'adafv-plus' doesn't read it",
        ),
        (["--text-tower", "s3://key:pw@bucket/x", "--strategy", "eadp"], "'s3://bucket/x' is no S3 URI"),
        (["--limit", "0"], "--limit is 0"),
        (["--sample", "0"], "--sample is 0"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--workers", "3:2"], "--workers is '3:2'"),
        (["--workers", "many"], "--workers is 'many'"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--max-reject-rate", "5"], "--max-reject-rate is 5.0"),
        (["--price-per-hour", "-1"], "--price-per-hour is -1.0"),
        (["--max-cost", "5"], "--max-cost needs --price-per-hour"),
        (["--max-cost", "5", "--price-per-hour", "0"], "--max-cost needs --price-per-hour, above 0"),
        (["--max-cost", "0", "--price-per-hour", "1"], "--max-cost is 0.0"),
        (["--max-hours", "nan"], "--max-hours is nan"),
        (["--max-hours", "inf"], "--max-hours is inf"),
        (["--on-finish", " "], "--on-finish is ''"),
        (["--run-id", "../x"], "--run-id is '../x'"),
        (["--prompt", "{question.__class__}"], "--prompt is"),
        (["--prompt", "{question[0]}"], "--prompt is"),
        (["--prompt", "{question!r}"], "--prompt is"),
        (["--prompt", "{question:>9}"], "--prompt is"),
        (["--prompt", "{}"], "--prompt is"),
        (["--prompt", "{question"], "--prompt is"),
        (["--output", "s3://key:pw@bucket/x"], "'s3://bucket/x' is no S3 URI"),
    ],
)
def test_wrong_values_are_named(arguments, said):
    with pytest.raises(UsageError) as caught:
        parse(*NEEDED, *arguments)
    assert said in str(caught.value) and "pw" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--keeps", "1"], ["--kee", "1"], ["--limit", "many"], ["stray"]])
def test_unknown_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*NEEDED, *arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err or arguments[-1] in capsys.readouterr().err


def test_help_has_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"--{name.replace('_', '-')}" in text for name in JobOptions.__dataclass_fields__)


def config(tmp_path, text: str) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def test_config_has_the_same_names(tmp_path):
    file = config(
        tmp_path, "input: [a, b]\noutput: o\nkeep-tokens: 64\nallow_http: true\nprompt: '-- {question}'\nlimit: null\n"
    )
    options = parse(*file)
    assert options.input == ("a", "b") and options.output == "o" and options.keep_tokens == 64
    assert options.allow_http is True and options.prompt == "-- {question}" and options.limit is None


def test_the_command_line_wins(tmp_path):
    file = config(tmp_path, "input: a\noutput: o\nkeep-tokens: 64\nallow-http: true\nseed: 1\n")
    options = parse(*file, "--input", "b", "--keep", "0.5", "--no-allow-http", "--seed=2")
    assert options.input == ("b",) and options.keep == 0.5 and options.keep_tokens is None
    assert options.allow_http is False and options.seed == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keeep: 1", "unknown options: keeep"),
        ("- a", "must hold option names"),
        ("keep: [1]", "wrong type"),
        ("keep: true", "wrong type"),
        ("allow-http: 1", "wrong type"),
        ("a: b: c", "can't be read"),
        ("output: o", "--input and --output are needed"),
    ],
)
def test_wrong_configs(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        parse(*config(tmp_path, text))


def test_a_missing_config():
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        parse("--config", "nowhere.yaml")


def test_the_public_form_has_no_secrets():
    options = JobOptions(input=("https://u:hidden@h/x?sig=hidden",), output="o", s3_endpoint="http://u:hidden@h:1")
    assert "hidden" not in str(public_options(options))
    assert public_options(options)["s3_endpoint"] == "http://h:1"


def test_strategies_and_budgets_are_parsed():
    assert parse_strategies("all") == [name for name in STRATEGIES if name != "none"]
    assert parse_strategies("adafv,none,random") == ["random", "adafv"]
    assert parse_keeps("0.5,0.1,0.5") == [0.5, 0.1]
    with pytest.raises(UsageError, match="'nonsense'; there are none, random"):
        parse_strategies("adafv,nonsense")
    for wrong in ("", "0", "1.5", "10%", "nan"):
        with pytest.raises(UsageError, match="--keep"):
            parse_keeps(wrong)
