"""Train the testbed's model: about two hours and a quarter on one CPU core, from nothing.

    python -m adafv.worlds.drawn.train --output DIR [--seed 0] [--stages small,drop,...] [--scale 1.0] [--start DIR]

Seven stages, each from where the last one ended:

- `small`: one crop, 3x3 cells, simple questions. Binding colours to kinds is learnt here, where a step is cheapest.
- `drop`: the same, and on half of the steps every scene loses a random share of its visual tokens. In a
  prototype without this, accuracy under pruning was brittle and even rose as the budget fell. Dropping at random
  favours no strategy but `random`.
- `anyres`: the real pictures, with base, crops, newlines and all sizes; tokens are dropped on half of the
  steps, and captions count half: what was dropped no caption can name.
- `objects`: alignment asked each word to find some object that it names; now it has to find each of them, so that
  "digit" speaks of every digit. [CLS] is left alone.
- `all`: questions of all types.
- `relate`: hard questions, several times as many, on one crop again: on large pictures they are hardly learnt.
- `rest`: all questions on all pictures.

`--start` begins with another model's weights, `--tower-only` with its vision tower alone.

Runs are seeded. A checkpoint stands in the output folder until the run ends, and a run that was killed goes
on from it. The loss is in losses.py, the batches in batches.py; this file is the schedule, the log and the
saving.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor, PreTrainedTokenizerFast

from adafv.worlds.drawn.batches import ALIGNED_WORDS, Batch, make_batch, normalise, random_keep
from adafv.worlds.drawn.evaluate import evaluate
from adafv.worlds.drawn.losses import ClsHead, Outputs, alignment_loss, answer_loss, forward
from adafv.worlds.drawn.model import TOKENS, build_model, build_processor
from adafv.worlds.drawn.questions import HARD_TYPES, QUESTION_TYPES, SIMPLE_TYPES
from adafv.worlds.drawn.scenes import EVALUATION_SEEDS, TRAINING_SEEDS, make_scene

LEAST_KEPT = 0.03  # of the visual tokens, where tokens are dropped


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int
    learning_rate: float
    grid: tuple[int, int] | None  # of the scenes; None: all that there are
    dropped: float  # share of the steps on which visual tokens are dropped
    caption_weight: float  # of a caption's words in the loss: two words in five are theirs
    every_object: bool = False  # alignment: a word has to find all objects that it names, not just one of them
    cls_weight: float = 0.5
    types: tuple[str, ...] = SIMPLE_TYPES  # of the questions
    draws: int = 1  # how often the hard types are asked


STAGES = {
    stage.name: stage
    for stage in (
        Stage("small", 1200, 1.5e-3, (3, 3), 0.0, 1.0),
        Stage("drop", 450, 7e-4, (3, 3), 0.5, 1.0),
        Stage("anyres", 1800, 1e-3, None, 0.5, 0.5),
        Stage("objects", 250, 4e-4, None, 0.5, 0.5, every_object=True, cls_weight=0.0),
        Stage("all", 1200, 8e-4, None, 0.5, 0.5, True, 0.25, tuple(QUESTION_TYPES)),
        Stage("relate", 700, 1e-3, (3, 3), 0.0, 1.0, True, 0.25, (*HARD_TYPES, "colour", "absent"), draws=4),
        Stage("rest", 500, 8e-4, None, 0.5, 0.5, True, 0.25, tuple(QUESTION_TYPES), draws=2),
    )
}


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    stages: tuple[str, ...] = tuple(STAGES)
    scale: float = 1.0  # of every stage's number of steps
    scenes_per_step: int = 32
    alignment_weight: float = 0.5
    start: str | None = None  # folder of a model to start from
    tower_only: bool = False  # take over its vision tower only
    evaluation_scenes: int = 150
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        unknown = sorted(set(self.stages) - set(STAGES))
        if unknown or not self.stages:
            raise ValueError(f"unknown stages {unknown}; there are {', '.join(STAGES)}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if self.tower_only and self.start is None:
            raise ValueError("tower_only says what to take over of a model to start from: give start as well")

    def steps(self, stage: str) -> int:
        return max(1, round(STAGES[stage].steps * self.scale))


class Trainer:
    """One run: the model, its optimiser, how far it has come, and the log."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe, self.output = recipe, output
        self.processor: LlavaNextProcessor = build_processor()
        self.model: LlavaNextForConditionalGeneration = build_model(seed=recipe.seed)
        if recipe.start is not None:
            take_over(self.model, Path(recipe.start), recipe.tower_only)
        torch.manual_seed(recipe.seed)
        self.head = ClsHead(self.model.model.vision_tower.config.hidden_size)
        self.stage, self.step, self.elapsed = 0, 0, 0.0
        self.optimizer = self._new_optimizer()
        self.aligned = torch.tensor([TOKENS.index(word) for word in ALIGNED_WORDS])
        self.encode = functools.cache(lambda text: self.processor.tokenizer(text)["input_ids"])
        output.mkdir(parents=True, exist_ok=True)
        self._restore()

    @property
    def checkpoint_path(self) -> Path:
        return self.output / "checkpoint.pt"

    def run(self) -> None:
        while self.stage < len(self.recipe.stages):
            stage = STAGES[self.recipe.stages[self.stage]]
            while self.step < self.recipe.steps(stage.name):
                self._step_and_log(stage)
            self.stage, self.step = self.stage + 1, 0
            self.optimizer = self._new_optimizer()
            self._save_checkpoint()

    def _step_and_log(self, stage: Stage) -> None:
        started = time.monotonic()
        losses, hits, words = self.train_step(stage)
        self.step += 1
        self.elapsed += time.monotonic() - started
        if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps(stage.name):
            parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            self.log(
                f"{stage.name} {self.step}/{self.recipe.steps(stage.name)} {parts} "
                f"words right {hits / words:.3f} elapsed {self.elapsed:.0f} s"
            )
        if self.step % self.recipe.save_every == 0:
            self._save_checkpoint()

    def train_step(self, stage: Stage) -> tuple[dict[str, float], int, int]:
        """Returns the losses, and how many answer words were right, of how many."""
        rng = np.random.default_rng([self.recipe.seed, list(STAGES).index(stage.name), self.step])
        seeds = rng.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop, size=self.recipe.scenes_per_step)
        scenes = [make_scene(int(seed), stage.grid) for seed in seeds]
        batch = make_batch(scenes, self.processor, self.encode, stage.types, stage.draws)
        keep = random_keep(batch, rng, LEAST_KEPT) if rng.random() < stage.dropped else None
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * schedule(self.step, self.recipe.steps(stage.name))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(self.model, normalise(batch.crops, self.processor), batch, keep)
            losses = self._losses(outputs, batch, stage)
        total = losses["answer"] + stage.cls_weight * losses["cls"]
        total = total + self.recipe.alignment_weight * losses["alignment"]
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        hits = int((outputs.logits.argmax(-1) == outputs.target).sum())
        return {name: float(loss.detach()) for name, loss in losses.items()}, hits, len(outputs.target)

    def _losses(self, outputs: Outputs, batch: Batch, stage: Stage) -> dict[str, torch.Tensor]:
        words = self.model.get_input_embeddings()(self.aligned)
        return {
            "answer": answer_loss(outputs, stage.caption_weight),
            "cls": self.head.loss(outputs.cls, batch),
            "alignment": alignment_loss(
                outputs.visual, words, batch.shows, batch.order, batch.on_object if stage.every_object else None
            ),
        }

    def log(self, line: str) -> None:
        print(line, flush=True)
        with (self.output / "train.log").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """The model and processor in transformers' own format; the checkpoint has then done its work."""
        self.model.save_pretrained(self.output)
        self.processor.save_pretrained(self.output)

    def _new_optimizer(self) -> torch.optim.AdamW:
        weights = [*self.model.parameters(), *self.head.parameters()]
        return torch.optim.AdamW(
            [
                {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.05},
                {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
        )

    def _save_checkpoint(self) -> None:
        state = {
            "recipe": repr(self.recipe),
            "progress": (self.stage, self.step, self.elapsed),
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint_path)

    def _restore(self) -> None:
        if not self.checkpoint_path.exists():
            (self.output / "train.log").unlink(missing_ok=True)
            return
        state = torch.load(self.checkpoint_path, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(
                f"{self.checkpoint_path} belongs to {state['recipe']}, not to {self.recipe!r}: "
                f"give the same options, or another --output, or delete it"
            )
        self.stage, self.step, self.elapsed = state["progress"]
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])


def take_over(model: LlavaNextForConditionalGeneration, folder: Path, tower_only: bool) -> None:
    """Give the model the weights of another, which may know fewer words: those keep their untrained embedding.

    With `tower_only` the projector and the language model stay untrained. Then words and patches come to mean the
    same only as far as answering questions makes them, as in a large model, whose vision tower is trained beforehand.
    """
    other = LlavaNextForConditionalGeneration.from_pretrained(folder)
    vocabulary = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    embedding, known = (each.get_input_embeddings().weight for each in (model, other))
    assert isinstance(embedding, torch.Tensor) and isinstance(known, torch.Tensor)
    with torch.no_grad():
        if not tower_only:
            for token in set(TOKENS) & vocabulary.keys():
                embedding[TOKENS.index(token)] = known[vocabulary[token]]
        own = model.state_dict()
        weights = {
            name: weight
            for name, weight in other.state_dict().items()
            if weight.shape == own[name].shape and (not tower_only or ".vision_tower." in name)
        }
        model.load_state_dict(weights, strict=False)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 50 steps (a twentieth, if that is less), then a cosine down to 2 %."""
    warm_up = min(50, max(1, steps // 20))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(recipe: Recipe, output: Path) -> dict[str, object]:
    """Train, evaluate on held-out scenes, save; returns the evaluation's figures."""
    trainer = Trainer(recipe, output)
    trainer.run()
    trainer.save()
    trainer.checkpoint_path.unlink(missing_ok=True)
    if recipe.evaluation_scenes == 0:
        return {}
    seeds = EVALUATION_SEEDS[: recipe.evaluation_scenes]
    result = evaluate(trainer.model.eval(), trainer.processor, [make_scene(seed) for seed in seeds])
    trainer.log(f"unpruned, {len(seeds)} held-out scenes, model.generate:\n{result.table()}")
    return json.loads(result.json())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train the testbed's model")
    parser.add_argument("--output", type=Path, required=True, help="folder for model, log and checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, in order")
    parser.add_argument("--scale", type=float, default=1.0, help="of every stage's number of steps")
    parser.add_argument("--alignment-weight", type=float, default=Recipe.alignment_weight)
    parser.add_argument("--start", metavar="DIR", help="a model to start from; it may know fewer words")
    parser.add_argument(
        "--tower-only", action="store_true", help="take over its vision tower only, and train the rest from nothing"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        recipe = Recipe(
            seed=options.seed,
            stages=tuple(options.stages.split(",")),
            scale=options.scale,
            alignment_weight=options.alignment_weight,
            start=options.start,
            tower_only=options.tower_only,
        )
    except ValueError as error:
        parser.error(str(error))
    train(recipe, options.output)


if __name__ == "__main__":
    main()
