"""Train one of the models: `testbed` takes two hours and a quarter on one CPU core, the others about half an hour.

    python -m adafv.worlds.drawn.train --output DIR [--model testbed] [--seed 0] [--stages small,drop,...] [--scale 1]

recipes.py has the stages. `--start` begins with another model's weights, `--tower-only` with its vision tower alone
(`testbed` only).

Runs are seeded. A checkpoint stands in the output folder until the run ends, and a run that was killed goes
on from it. The model is saved after each stage. The losses are in losses.py, the batches in batches.py; this file is
the schedule, the log and the saving.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from adafv.embedded import embedded_model
from adafv.worlds.drawn.batches import ALIGNED_WORDS, Batch, make_batch, random_keep
from adafv.worlds.drawn.evaluate import evaluate
from adafv.worlds.drawn.family import Family
from adafv.worlds.drawn.losses import ClsHead, Outputs, PatchHead, alignment_loss, answer_loss, forward
from adafv.worlds.drawn.model import TOKENS
from adafv.worlds.drawn.recipes import PLANS, Curriculum, Stage
from adafv.worlds.drawn.scenes import EVALUATION_SEEDS, TRAINING_SEEDS, make_scene

LEAST_KEPT = 0.03  # of the visual tokens, where tokens are dropped


@dataclass(frozen=True)
class Recipe:
    model: str = "testbed"
    seed: int = 0
    stages: tuple[str, ...] = ()  # names, in order; none: all
    scale: float = 1.0  # of every stage's number of steps
    scenes_per_step: int | None = None  # None: the stage's
    alignment_weight: float | None = None  # None: the plan's
    start: str | None = None  # folder of a model to start from
    tower_only: bool = False  # take over its vision tower only
    evaluation_scenes: int = 150
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        if self.model not in PLANS:
            raise ValueError(f"unknown model {self.model!r}; there are {', '.join(PLANS)}")
        unknown = sorted(set(self.stages) - set(self.plan.stage_names))
        if unknown:
            raise ValueError(f"unknown stages {unknown}; there are {', '.join(self.plan.stage_names)}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if self.tower_only and self.start is None:
            raise ValueError("tower_only says what to take over of a model to start from: give start as well")
        if self.start is not None and self.model != "testbed":
            raise ValueError(f"only testbed starts from another model's weights, not {self.model}")

    @property
    def plan(self) -> Curriculum:
        return PLANS[self.model]

    @property
    def schedule(self) -> tuple[Stage, ...]:
        return tuple(self.plan.stage(name) for name in self.stages or self.plan.stage_names)

    def steps(self, stage: Stage) -> int:
        return max(1, round(stage.steps * self.scale))


class Heads(nn.Module):
    """What only training needs."""

    def __init__(self, family: Family, model: Any) -> None:
        super().__init__()
        self.cls = ClsHead(model.model.vision_tower.config.hidden_size) if family.has_cls else None
        self.patches = PatchHead(model.get_input_embeddings().embedding_dim)


class Trainer:
    """One run: the model, its optimiser, how far it has come, and the log."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe, self.plan, self.output = recipe, recipe.plan, output
        self.family = self.plan.family
        self.processor = self.family.build_processor()
        self.model = self.family.build_model(recipe.seed)
        if self.plan.tower is not None:
            take_over(self.model, embedded_model(self.plan.tower), tower_only=True)
        if recipe.start is not None:
            take_over(self.model, Path(recipe.start), recipe.tower_only)
        torch.manual_seed(recipe.seed)
        self.heads = Heads(self.family, self.model)
        self.stage, self.step, self.elapsed = 0, 0, 0.0
        self.optimizer = self._new_optimizer()
        self.aligned = torch.tensor([TOKENS.index(word) for word in ALIGNED_WORDS])
        self.encode = functools.cache(lambda text: self.processor.tokenizer(text)["input_ids"])
        self._again = functools.cache(self._batch)
        output.mkdir(parents=True, exist_ok=True)
        self._restore()

    @property
    def checkpoint_path(self) -> Path:
        return self.output / "checkpoint.pt"

    def run(self) -> None:
        while self.stage < len(self.recipe.schedule):
            stage = self.recipe.schedule[self.stage]
            while self.step < self.recipe.steps(stage):
                self._step_and_log(stage)
            self.stage, self.step = self.stage + 1, 0
            self.optimizer = self._new_optimizer()
            self._save_checkpoint()
            self.save()

    def _step_and_log(self, stage: Stage) -> None:
        started = time.monotonic()
        losses, hits, words = self.train_step(stage)
        self.step += 1
        self.elapsed += time.monotonic() - started
        if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps(stage):
            parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            self.log(
                f"{stage.name} {self.step}/{self.recipe.steps(stage)} {parts} "
                f"words right {hits / max(words, 1):.3f} elapsed {self.elapsed:.0f} s"
            )
        if self.step % self.recipe.save_every == 0:
            self._save_checkpoint()

    def train_step(self, stage: Stage) -> tuple[dict[str, float], int, int]:
        """Returns the losses, and how many answer words were right, of how many."""
        if stage.batches is None:
            batch, rng = self._batch(stage, self.step)
        else:
            batch, rng = self._again(stage, self.step % stage.batches)
        keep = random_keep(batch, rng, LEAST_KEPT) if rng.random() < stage.dropped else None
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * schedule(self.step, self.recipe.steps(stage))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(self.family, self.model, self.processor, batch, keep)
            losses = self._losses(outputs, batch, stage)
        weights = {
            "answer": 1.0,
            "cls": stage.cls_weight,
            "patches": stage.patches_weight,
            "alignment": self._alignment_weight,
        }
        total = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        hits = int((outputs.logits.argmax(-1) == outputs.target).sum())
        return {name: float(loss.detach()) for name, loss in losses.items()}, hits, len(outputs.target)

    def _batch(self, stage: Stage, number: int) -> tuple[Batch, np.random.Generator]:
        """A batch, and the generator that drew it."""
        rng = np.random.default_rng([self.recipe.seed, self.plan.stage_names.index(stage.name), number])
        count = self.recipe.scenes_per_step or stage.scenes
        seeds = rng.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop, size=count)
        scenes = [make_scene(int(seed), stage.grid, self.plan.style) for seed in seeds]
        return make_batch(scenes, self.processor, self.encode, stage.types, stage.draws, self.family), rng

    @property
    def _alignment_weight(self) -> float:
        given = self.recipe.alignment_weight
        return self.plan.alignment if given is None else given

    def _losses(self, outputs: Outputs, batch: Batch, stage: Stage) -> dict[str, torch.Tensor]:
        losses = {}
        if len(outputs.target):
            losses["answer"] = answer_loss(outputs, stage.caption_weight)
        if outputs.cls is not None and self.heads.cls is not None:
            losses["cls"] = self.heads.cls.loss(outputs.cls, batch)
        if stage.patches_weight:
            losses["patches"] = self.heads.patches.loss(outputs.visual, batch)
        if self._alignment_weight:
            words = self.model.get_input_embeddings()(self.aligned)
            on_object = batch.on_object if stage.every_object else None
            losses["alignment"] = alignment_loss(outputs.visual, words, batch.shows, batch.order, on_object)
        return losses

    def log(self, line: str) -> None:
        print(line, flush=True)
        with (self.output / "train.log").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """The model and processor in transformers' own format."""
        copy.deepcopy(self.model).to(getattr(torch, self.plan.dtype)).save_pretrained(self.output)
        self.processor.save_pretrained(self.output)

    def _new_optimizer(self) -> torch.optim.AdamW:
        weights = [*self.model.parameters(), *self.heads.parameters()]
        return torch.optim.AdamW(
            [
                {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.05},
                {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def _save_checkpoint(self) -> None:
        state = {
            "recipe": repr(self.recipe),
            "progress": (self.stage, self.step, self.elapsed),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
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
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])


def take_over(model: Any, folder: Path, tower_only: bool) -> None:
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
        weights = {}
        for name, weight in other.state_dict().items():
            if name.endswith("position_embedding.weight") and len(weight) == len(own[name]) + 1:
                weight = weight[1:]  # a tower without [CLS]
            if name in own and weight.shape == own[name].shape and (not tower_only or ".vision_tower." in name):
                weights[name] = weight
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
    trainer.checkpoint_path.unlink(missing_ok=True)
    if recipe.evaluation_scenes == 0:
        return {}
    seeds = EVALUATION_SEEDS[: recipe.evaluation_scenes]
    scenes = [make_scene(seed, style=recipe.plan.style) for seed in seeds]
    result = evaluate(output, scenes, recipe.plan.types)
    trainer.log(f"unpruned, {len(seeds)} held-out scenes:\n{result.table()}")
    return json.loads(result.json())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train one of the drawn worlds' models")
    parser.add_argument("--model", choices=list(PLANS), default=Recipe.model)
    parser.add_argument("--output", type=Path, required=True, help="folder for model, log and checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", help="comma-separated, in order; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="of every stage's number of steps")
    parser.add_argument("--alignment-weight", type=float, help="default: the model's")
    parser.add_argument("--start", metavar="DIR", help="a model to start from; it may know fewer words")
    parser.add_argument(
        "--tower-only", action="store_true", help="take over its vision tower only, and train the rest from nothing"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        recipe = Recipe(
            model=options.model,
            seed=options.seed,
            stages=tuple(options.stages.split(",")) if options.stages is not None else (),
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
