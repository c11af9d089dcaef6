"""The command line, the configuration file, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import pytest

from adafv.engine import EngineOptions
from adafv.option import OptionError, option, require, texts_of
from adafv.pipeline import options as pipeline_options
from adafv.pipeline.arguments import parse_keeps, parse_strategies
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions, budget_name, option_fields
from adafv.pipeline.outputs import recipe
from adafv.pipeline.outputs.recipe import recipe_of
from adafv.pipeline.record.run_record import public_options
from adafv.pruning import STRATEGIES
from tests.parsing import parse_options

NEEDED = ["--input", "in.parquet", "--output", "out"]


def parse(*arguments: str) -> JobOptions:
    return parse_options(arguments, "", "")


def test_defaults():
    options = parse(*NEEDED)
    assert options.input == ("in.parquet",) and options.output == "out"
    assert (options.model, options.engine.strategy, options.engine.keep, options.prompt) == (
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
            "--text-tower is 'clip'; it must be unset with strategy 'adafv-plus'",
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
        (["--prompt", "@none.txt"], "--prompt is '@none.txt'; it must be @ and a file that can be read"),
        (["--system", " "], "--system is ' '; it must be a text"),
        (["--prompts", "none.yaml"], "--prompts is 'none.yaml'; it must be a YAML file"),
        (["--prompts", "[]"], "--prompts is '[]'; it must be texts with weights"),
        (["--prompts", "{a: 0}"], "--prompts is '{a: 0}'; it must be texts with weights above 0"),
        (["--prompts", "{'{question!r}': 1}"], "--prompt is '{question!r}'; it must be text with plain"),
        (["--prompts", "[a]", "--prompt", "b"], "it must be unset with --prompt"),
        (["--choices", "a,a"], "--choices is 'a,a'; it must be each text once: 'a'"),
        (["--choices", "a,,b"], "--choices is 'a,,b'; it must be texts without white space around them"),
        (["--choices", "[1]"], "--choices is '[1]'; it must be a list of texts, at least one"),
        (["--choices", "[a"], "--choices is '[a'; it must be a list in JSON"),
        (["--choices", "@none.txt"], "--choices is '@none.txt'; it must be @ and a file that can be read"),
        (["--choices", "a,b", "--temperature", "1"], "--temperature is 1.0; it must be 0 with choices"),
        (["--choices", "a,b", "--backend", "vllm"], "which gives no log-probabilities of prompts of embeddings"),
        (["--choices", "a,b", "--choices-column", "c"], "--choices-column is 'c'; it must be unset with --choices"),
        (["--choices-column", "c", "--temperature", "1"], "--temperature is 1.0; it must be 0 with choices_column"),
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
    assert all(f"--{name.replace('_', '-')}" in text for name in option_fields())


def config(tmp_path, text: str) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def test_config_has_the_same_names(tmp_path):
    file = config(
        tmp_path, "input: [a, b]\noutput: o\nkeep-tokens: 64\nallow_http: true\nprompt: '-- {question}'\nlimit: null\n"
    )
    options = parse(*file)
    assert options.input == ("a", "b") and options.output == "o" and options.engine.keep_tokens == 64
    assert options.allow_http is True and options.prompt == "-- {question}" and options.limit is None


def test_lists_of_texts_are_given_in_four_ways(tmp_path):
    (tmp_path / "labels.txt").write_text("red\n\n dark blue, or black \n")
    assert parse(*NEEDED, "--choices", "red, dark blue").engine.choices == ("red", "dark blue")
    assert parse(*NEEDED, "--choices", '["yes, sir", "no"]').engine.choices == ("yes, sir", "no")
    assert parse(*NEEDED, "--choices", f"@{tmp_path}/labels.txt").engine.choices == ("red", "dark blue, or black")
    file = config(tmp_path, "choices: ['yes, sir', 'no']\n")
    assert parse(*NEEDED, *file).engine.choices == ("yes, sir", "no")
    assert JobOptions.of(input=["i"], output="o", choices=["yes, sir", "no"]).engine.choices == ("yes, sir", "no")


def test_prompts_come_from_files(tmp_path):
    (tmp_path / "prompt.txt").write_text("Describe {question}.\n")
    (tmp_path / "prompts.yaml").write_text("'Describe it.': 3\n'{question}': 1\n")
    assert parse(*NEEDED, "--prompt", f"@{tmp_path}/prompt.txt").prompt == "Describe {question}."
    assert parse(*NEEDED, "--system", f"@{tmp_path}/prompt.txt").system == "Describe {question}."
    (tmp_path / "prompt.txt").write_text("@prompt.txt\n")
    for name in ("--prompt", "--system"):
        with pytest.raises(UsageError, match="a file whose text doesn't begin with @"):
            parse(*NEEDED, name, f"@{tmp_path}/prompt.txt")
    options = parse(*NEEDED, "--prompts", f"{tmp_path}/prompts.yaml")
    assert options.prompts == (("Describe it.", 3.0), ("{question}", 1.0)) and options.prompt_columns() == ("question",)
    assert options == JobOptions.of(input=["in.parquet"], output="out", prompts={"Describe it.": 3, "{question}": 1})
    assert (
        options.changed(keep=0.5).prompts
        == options.prompts
        == parse(*NEEDED, "--prompts", json.dumps(options.prompts)).prompts
    )
    assert recipe_of(options)["prompts"] == [["Describe it.", 3.0], ["{question}", 1.0]]


def test_a_config_may_hold_what_else_has_a_file(tmp_path):
    text = "schema: {type: object, properties: {a: {type: integer}}}\nprompts:\n  Describe it.: 2\n  What is it?: 1\n"
    options = parse(*NEEDED, *config(tmp_path, text))
    assert json.loads(options.engine.schema or "") == {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert options.prompts == (("Describe it.", 2.0), ("What is it?", 1.0))


def test_the_command_line_wins(tmp_path):
    file = config(tmp_path, "input: a\noutput: o\nkeep-tokens: 64\nallow-http: true\nseed: 1\n")
    options = parse(*file, "--input", "b", "--keep", "0.5", "--no-allow-http", "--seed=2")
    assert options.input == ("b",) and options.engine.keep == 0.5 and options.engine.keep_tokens is None
    assert options.allow_http is False and options.engine.seed == 2


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


# A value of each of the engine's options that isn't the default, as text; one that is missing here fails the test.
OTHER = {
    "strategy": "eadp", "keep": "0.5", "keep_tokens": "9", "max_new_tokens": "7", "text_scope": "prompt",
    "positions": "compact",
    "text_tower": "clip", "newlines": "rows", "temperature": "0.5", "top_p": "0.5", "seed": "4", "quantize": "int8",
    "audit": "0.25", "escalate": "0.8", "escalate_below": "-0.05", "backend": "vllm", "device": "cpu",
    "dtype": "float16", "tensor_parallel": "2", "thresholds": '{"type": {"a": -0.5}}', "choices": "yes,no",
    "schema": '{"type": "object"}', "regex": "a+", "answer_prefix": "A photo of", "min_new_tokens": "3",
    "stop": ".,!", "banned_words": "a,b", "repetition_penalty": "1.1", "no_repeat_ngram": "3", "top_k": "5",
    "escalate_flags": "loop,empty", "samples": "3", "max_image_tokens": "99",
    "image_options": '{"max_pixels": 400}',
}  # fmt: skip
BESIDE = {"text_tower": {"strategy": "eadp"}, "tensor_parallel": {"backend": "vllm"}, "top_p": {"temperature": "1.0"}}
BESIDE |= {"top_k": BESIDE["top_p"], "samples": BESIDE["top_p"], "escalate_flags": {"escalate": "1.0"}}
BESIDE |= {"seed": BESIDE["top_p"], "escalate": {"escalate_below": "-1.0"}, "escalate_below": {"escalate": "1.0"}}
BESIDE |= {"thresholds": {"escalate": "1.0", "escalate_below": "-1.0"}}


@pytest.mark.parametrize("item", fields(EngineOptions), ids=lambda item: item.name)
def test_each_option_of_the_engine_is_one_of_the_job(tmp_path, item):
    """On the command line, in the file, in what is recorded, and in the recipe if it can change a label."""
    given = BESIDE.get(item.name, {}) | {item.name: OTHER[item.name]}
    text, several = OTHER[item.name], item.metadata["several"]
    value = texts_of(item.name, text) if several else item.metadata["type"](text)
    arguments = [f"--{name.replace('_', '-')}={text}" for name, text in given.items()]
    options = parse(*NEEDED, *arguments)
    lines = "".join(f"{name}: {text}\n" for name, text in given.items())
    assert getattr(options.engine, item.name) == value != item.default
    assert options == parse(*NEEDED, *config(tmp_path, lines)) == parse(*NEEDED).changed(**flat(options.engine))
    assert options == JobOptions.of(input=["in.parquet"], output="out", **flat(options.engine))
    assert public_options(options)[item.name] == options.values()[item.name] == value
    assert (item.name in recipe_of(options)) == (item.metadata["group"] == "model")


def flat(engine: EngineOptions) -> dict[str, object]:
    return {item.name: getattr(engine, item.name) for item in fields(engine)}


@pytest.fixture
def longer_engine(monkeypatch):
    """The engine's options, with one more."""

    @dataclass(frozen=True, kw_only=True)
    class Longer(EngineOptions):
        patience: int = option("model", "how long to wait", 3, type=int, metavar="N", formerly=2)

        def __post_init__(self) -> None:
            EngineOptions.__post_init__(self)
            require(self.patience > 0, "patience", self.patience, "above 0")

    for module in (pipeline_options, recipe):
        monkeypatch.setattr(module, "EngineOptions", Longer)
    caches = (pipeline_options.option_fields, pipeline_options.engine_names)
    for found in caches:
        found.cache_clear()
    yield Longer
    for found in caches:
        found.cache_clear()


def test_an_option_that_the_engine_gains_is_there(longer_engine, tmp_path, capsys):
    """Declared once, it is on the command line, in the file, checked, recorded, and part of the recipe."""
    assert parse(*NEEDED, "--patience", "5").engine == longer_engine(patience=5)
    assert parse(*NEEDED, *config(tmp_path, "patience: 6\n")).engine.patience == 6
    with pytest.raises(UsageError, match="--patience is 0; it must be above 0"):
        parse(*NEEDED, "--patience=0")
    with pytest.raises(SystemExit):
        parse("--help")
    assert "--patience N          how long to wait (default: 3)" in capsys.readouterr().out
    options = parse(*NEEDED)
    assert public_options(options)["patience"] == recipe_of(options)["patience"] == 3
    earlier = {name: value for name, value in recipe_of(options).items() if name != "patience"}
    assert recipe.changes_of(earlier, recipe_of(options)) == ["patience was 2 and is 3"]
    assert recipe.changes_of(earlier, recipe_of(options.changed(patience=2))) == []


def test_no_option_is_declared_twice():
    names = [item.name for item in (*fields(JobOptions), *fields(EngineOptions))]
    assert len(names) == len(set(names)) and {*names} - {"engine"} == {*option_fields()}


def test_options_in_python():
    """The engine's are nested; wrong ones are errors as on the command line, or with their name as data."""
    options = JobOptions(input=["a", "b"], output="o", engine=EngineOptions(keep=0.5))
    assert options == parse("--input", "a", "b", "--output", "o", "--keep", "0.5") and options.input == ("a", "b")
    assert options.changed(keep=0.25, limit=3).engine.keep == 0.25 and options.engine.keep == 0.5
    with pytest.raises(OptionError) as caught:
        EngineOptions(keep=0.0)
    assert (caught.value.name, caught.value.value) == ("keep", 0.0)
    with pytest.raises(UsageError, match=r"--keep is 0\.0"):
        options.changed(keep=0.0)
    for wrong in ("a", []):
        with pytest.raises(UsageError, match=r"--input is .* a list of paths or URIs, at least one"):
            JobOptions(input=wrong, output="o")
    with pytest.raises(TypeError, match="keeep"):
        JobOptions.of(input=["a"], output="o", keeep=1)


@pytest.mark.parametrize("name", ["input", "output", "image_root", "allow_local"])
def test_places_are_utf8(name):
    """Neither Parquet nor pyarrow's file systems can hold other names."""
    values = {"input": ["in"], "output": "out", name: "caf\udce9"}
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} is 'caf.udce9'; it must be UTF-8"):
        JobOptions.of(**values | {"input": ["caf\udce9"] if name == "input" else ["in"]})


def test_the_engine_on_a_device():
    assert parse(*NEEDED, "--keep", "0.5").engine_on("cpu") == EngineOptions(keep=0.5, device="cpu")
    with pytest.raises(UsageError, match="--quantize is 'int4'; it must be int8 for auto on cpu"):
        parse(*NEEDED, "--quantize", "int4").engine_on("cpu")


def test_budgets_that_differ_little_have_folders_of_their_own():
    assert [budget_name("adafv", keep) for keep in (0.1234567, 0.1234568, 0.1, 1.0)] == [
        "adafv-0.1234567", "adafv-0.1234568", "adafv-0.1", "adafv-1",
    ]  # fmt: skip
