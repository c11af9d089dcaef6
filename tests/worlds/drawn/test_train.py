"""The training runs, learns, and goes on after a kill as if nothing had happened."""

import functools
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoProcessor, LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from adafv.worlds.drawn import train as train_module
from adafv.worlds.drawn.model import TOKENS, UNKNOWN, build_model
from adafv.worlds.drawn.recipes import PLANS
from adafv.worlds.drawn.train import Recipe, Trainer, main, schedule, take_over, train

TINY = Recipe(stages=("small", "drop"), scale=0.005, scenes_per_step=2, save_every=2, evaluation_scenes=0, log_every=4)


class KilledError(Exception):
    pass


def killed_after(monkeypatch, steps):
    """Make the training die in its `steps`-th step from now."""
    real, left = Trainer.train_step, [steps]

    def step(self, stage):
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        return real(self, stage)

    monkeypatch.setattr(Trainer, "train_step", step)


RUNS = {
    "testbed": TINY,
    **{
        name: Recipe(model=name, scale=0.002, scenes_per_step=2, save_every=1, evaluation_scenes=0)
        for name in PLANS
        if name != "testbed"
    },
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The weights of runs that nobody disturbed, each made when it is asked for."""
    assert [TINY.steps(stage) for stage in TINY.schedule] == [6, 2]

    @functools.cache
    def weights(name):
        folder = tmp_path_factory.mktemp("straight")
        train(RUNS[name], folder)
        return load_file(folder / "model.safetensors")

    return weights


@pytest.mark.parametrize(
    ("name", "kill_at"),
    [
        ("testbed", 2),
        ("testbed", 5),
        ("testbed", 8),
        ("textured-clip", 3),
        ("textured-siglip", 3),
        ("textured-qwen", 4),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, straight, name, kill_at):
    """The testbed's killed before the first checkpoint, in the first stage, and in the second."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        killed_after(patch, kill_at)
        train(RUNS[name], tmp_path / "killed")
    train(RUNS[name], tmp_path / "killed")
    resumed = load_file(tmp_path / "killed" / "model.safetensors")
    assert straight(name).keys() == resumed.keys()
    for part, weight in straight(name).items():
        torch.testing.assert_close(resumed[part], weight, atol=0, rtol=0)
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_what_is_saved_loads_and_logs(tmp_path):
    train(Recipe(stages=("anyres",), scale=0.001, scenes_per_step=3, evaluation_scenes=2), tmp_path)
    LlavaNextForConditionalGeneration.from_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tmp_path)
    log = (tmp_path / "train.log").read_text()
    assert "anyres 2/2 answer" in log
    assert "type colour" in log  # the evaluation's table


@pytest.fixture(scope="module")
def fewer_words(tmp_path_factory):
    """A model of the same kind that lacks the vocabulary's last words, and has the others in another order."""
    folder = tmp_path_factory.mktemp("fewer-words")
    model = build_model(seed=5)
    words = TOKENS[-4::-1]
    model.resize_token_embeddings(len(words))
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.arange(len(words))[:, None].float()
    model.save_pretrained(folder)
    vocabulary = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token=UNKNOWN).save_pretrained(folder)
    return folder, words


def test_a_model_is_taken_over_word_by_word(fewer_words):
    folder, words = fewer_words
    model, untrained = build_model(seed=1), build_model(seed=1).state_dict()
    take_over(model, folder, tower_only=False)
    embedding = model.get_input_embeddings().weight
    for place, token in enumerate(TOKENS):
        if token in words:
            assert (embedding[place] == words.index(token)).all(), token
        else:
            assert (embedding[place] == untrained["lm_head.weight"][place]).all(), token
    assert model.lm_head.weight is embedding
    for name, weight in model.state_dict().items():
        if "embed_tokens" not in name and name != "lm_head.weight":
            assert (weight == build_model(seed=5).state_dict()[name]).all(), name


def test_of_another_model_the_tower_alone_can_be_taken_over(fewer_words):
    folder, _ = fewer_words
    model, untrained, other = build_model(seed=1), build_model(seed=1).state_dict(), build_model(seed=5).state_dict()
    take_over(model, folder, tower_only=True)
    for name, weight in model.state_dict().items():
        assert (weight == (other if ".vision_tower." in name else untrained)[name]).all(), name


def test_another_recipes_checkpoint_is_not_taken_over(tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        killed_after(patch, 5)
        train(TINY, tmp_path)
    with pytest.raises(ValueError, match=r"seed=0.*seed=1"):
        Trainer(Recipe(**{**vars(TINY), "seed": 1}), tmp_path)


@pytest.mark.slow
@pytest.mark.nightly
def test_loss_falls(tmp_path):
    recipe = Recipe(stages=("small",), scale=0.05, scenes_per_step=16, evaluation_scenes=0)
    trainer = Trainer(recipe, tmp_path)
    losses = []
    for trainer.step in range(60):
        losses.append(trainer.train_step(PLANS["testbed"].stage("small"))[0])
    for name, factor in (("answer", 0.75), ("cls", 0.8), ("alignment", 0.9)):
        first, last = (sum(each[name] for each in part) / 10 for part in (losses[:10], losses[-10:]))
        assert last < factor * first, (name, first, last)


def test_schedule_warms_up_and_falls():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1, abs=1e-3)
    assert all(a <= b for a, b in pairwise(rates[:50]))
    assert all(a >= b for a, b in pairwise(rates[50:]))
    assert 0.02 <= rates[-1] < 0.03
    assert schedule(0, 1) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ("warmup",)}, "warmup"),
        ({"model": "testbed-large"}, "unknown model 'testbed-large'; there are testbed, textured-clip"),
        ({"model": "textured-qwen", "start": "there"}, "only testbed starts"),
        ({"scale": 0.0}, "scale"),
        ({"tower_only": True}, "start"),
    ],
)
def test_recipes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_command_line(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(train_module, "train", lambda recipe, output: asked.append((recipe, output)))
    main(["--output", str(tmp_path), "--seed", "7", "--stages", "drop,anyres", "--alignment-weight", "0.1"])
    main(["--output", str(tmp_path), "--start", "there", "--tower-only"])
    assert asked == [
        (Recipe(seed=7, stages=("drop", "anyres"), alignment_weight=0.1), tmp_path),
        (Recipe(start="there", tower_only=True), tmp_path),
    ]
    with pytest.raises(SystemExit) as end:
        main(["--output", str(tmp_path), "--stages", "warmup"])
    assert end.value.code == 2
