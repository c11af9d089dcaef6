"""A training goes on where it stopped, and learns."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from adafv.worlds.photo.align import Alignment
from adafv.worlds.photo.export import condensed, export
from adafv.worlds.photo.features import Features
from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.model import save_trained
from adafv.worlds.photo.packed import PackedLanguageModel
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.recipes import Stage
from adafv.worlds.photo.scenes import TRAINING_SEEDS, VALIDATION_SEEDS, make_sheet
from adafv.worlds.photo.trainer import Parts, Trainer

WIDTH, WORDS = 32, 3000
RECIPE = (
    Stage(kind="align", steps=3, rows=16, shards=1, rate=0.0, projector_rate=1e-3),
    Stage(kind="names", steps=3, rows=4, shards=1, rate=1e-3, projector_rate=1e-3),
    Stage(kind="scenes", steps=2, rows=2, shards=2, rate=1e-3, projector_rate=1e-3, patches=60),
    Stage(kind="places", steps=2, rows=64, shards=1, rate=0.0, projector_rate=1e-3),
    Stage(kind="signs", steps=2, rows=4, shards=1, rate=1e-3, projector_rate=1e-3),
    Stage(kind="pairs", steps=2, rows=3, shards=1, rate=1e-3, projector_rate=1e-3, patches=40),
    Stage(kind="scenes", steps=2, rows=2, shards=2, rate=1e-3, projector_rate=1e-3),
    Stage(kind="wide", steps=2, rows=1, shards=2, rate=1e-3, projector_rate=1e-3),
)


def encode(text: str) -> list[int]:
    """A number for each word and mark."""
    return [sum(map(ord, word)) % WORDS for word in re.findall(r"\w+|\W", text)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def make_parts(stand_ins, kept):
    def tower() -> Dinov2Model:
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=WIDTH, num_hidden_layers=8, num_attention_heads=2, image_size=336)
        return Dinov2Model(config).eval()

    def make() -> Parts:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=WORDS, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        language = LlamaForCausalLM(config)
        return Parts(
            language=PackedLanguageModel(language, lora_for(language.model), [1, 2]),
            projector=Projector(WIDTH, 48),
            encode=encode,
            pictures=stand_ins,
            training=Features(kept, TRAINING_SEEDS, stand_ins, tower, shard=4),
            validation=Features(kept, VALIDATION_SEEDS, stand_ins, tower, shard=4),
            sheets=Features(kept / "sheets", TRAINING_SEEDS, stand_ins, tower, 2, make_sheet),
            validation_sheets=Features(kept / "sheets", VALIDATION_SEEDS, stand_ins, tower, 2, make_sheet),
            tower=tower,
        )

    return make


def _weights(parts: Parts) -> dict[str, torch.Tensor]:
    return {**parts.projector.state_dict(), **parts.language.lora.state_dict()}


def test_a_stopped_training_goes_on_as_if_it_had_not_been(make_parts, tmp_path):
    straight, stopped = make_parts(), make_parts()
    Trainer(straight, RECIPE, tmp_path / "straight").run()
    before = {name: value.clone() for name, value in _weights(stopped).items()}
    Trainer(stopped, RECIPE[:2], tmp_path / "stopped").run()
    again = make_parts()
    Trainer(again, RECIPE, tmp_path / "stopped").run()
    for name, value in _weights(straight).items():
        torch.testing.assert_close(_weights(again)[name], value, rtol=0, atol=0)
        assert not torch.equal(value, before[name]), name
    log = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    kinds = [stage.kind for stage in RECIPE if stage.kind != "places"]
    assert [line["stage"] for line in log if "right" in line] == kinds
    assert all(any(name in line.get("right", ()) for line in log) for name in ("sign", "pair where"))
    assert {"name", "main", "caption", "exists", "wide main"} <= log[-1]["right"].keys()


def test_time_that_is_up_stops_it(make_parts, tmp_path):
    trainer = Trainer(make_parts(), RECIPE, tmp_path)
    trainer.run(minutes=0)
    assert (trainer.stage, trainer.step) == (0, 0) and (tmp_path / "checkpoint.pt").is_file()


def test_it_goes_on_from_what_was_exported(make_parts, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    committed = tmp_path / "weights" / "trained.safetensors"
    monkeypatch.setattr("adafv.worlds.photo.export.trained_file", lambda model: committed)
    first = make_parts()
    Trainer(first, RECIPE[:1], tmp_path / "photo/training/photo").run()
    export("photo")
    second = make_parts()
    trainer = Trainer(second, RECIPE, tmp_path / "elsewhere", committed)
    assert trainer.stage == 1 and (tmp_path / "elsewhere/log.jsonl").is_file()
    for name, value in _weights(first).items():
        torch.testing.assert_close(_weights(second)[name], value, rtol=1e-2, atol=1e-2)


def test_the_rates_rise_again_when_the_optimiser_is_new(make_parts, tmp_path):
    first = Trainer(make_parts(), RECIPE, tmp_path / "first")
    first.stage, first.step = 2, 1
    first.save()
    state = torch.load(tmp_path / "first/checkpoint.pt", weights_only=True)
    committed = tmp_path / "trained.safetensors"
    about = {name: str(value) for name, value in state["progress"].items()}
    save_trained(committed, state["projector"], state["lora"], about)
    (tmp_path / "log.jsonl").touch()
    rates = []
    for trainer in (
        Trainer(make_parts(), RECIPE, tmp_path / "first"),
        Trainer(make_parts(), RECIPE, tmp_path / "second", committed),
    ):
        assert (trainer.stage, trainer.step) == (2, 1)
        trainer._train_step(RECIPE[2], trainer._loss_of(RECIPE[2]))
        rates.append(trainer._optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(2 * rates[1])


def test_patches_come_near_their_names(make_parts):
    parts = make_parts()
    alignment = Alignment(parts.training, range(4), parts.pictures, parts.language.embeddings, parts.encode)
    parts.projector.standardise(torch.cat([parts.training[i] for i in range(4)]))
    optimizer, rng = torch.optim.Adam(parts.projector.parameters(), lr=1e-2), np.random.default_rng(0)
    before = alignment.right(parts.projector)["things"]
    for _ in range(150):
        optimizer.zero_grad()
        alignment.loss(parts.projector, 128, rng).backward()
        optimizer.step()
    assert before < 0.2 and alignment.right(parts.projector)["things"] > 0.6


def test_a_condensed_log_keeps_evaluations():
    lines = [json.dumps({"loss": i}) for i in range(200)]
    lines[57] = json.dumps({"right": {}})
    short = condensed(lines, losses=20)
    assert lines[57] in short and 18 <= len(short) <= 24


def test_weights_are_saved_whole(tmp_path):
    save_trained(tmp_path / "trained.safetensors", {}, {"up": torch.ones(2)}, {"model": "some"})
    assert [path.name for path in tmp_path.iterdir()] == ["trained.safetensors"]
