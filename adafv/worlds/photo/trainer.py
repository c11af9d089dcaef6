"""Goes through a recipe's stages, and keeps on disk how far it has come."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Model

from adafv.worlds.photo.align import Alignment
from adafv.worlds.photo.batches import Encode, name_batch, pair_batch, part_batch, scene_batch, sign_batch, wide_scene
from adafv.worlds.photo.features import SIDE, Features
from adafv.worlds.photo.model import about_trained, load_trained, newline
from adafv.worlds.photo.packed import IGNORE, Packed, PackedLanguageModel
from adafv.worlds.photo.pictures import Pictures
from adafv.worlds.photo.places import directions, teach_places
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.questions import Question
from adafv.worlds.photo.recipes import Stage
from adafv.worlds.photo.scenes import TRAINING_SEEDS, VALIDATION_SEEDS

SAVE_EVERY = 120.0  # s
LOG_EVERY, EVALUATE_EVERY = 10, 100  # steps
ALIGN_LOG_EVERY = 200  # steps, which are much shorter
RISE = 30  # steps in which the rates rise: of a stage, and after the optimiser has forgotten what it knew
LEAST = 0.1  # what is left of the rates at a stage's end
VALIDATION_NAMES, VALIDATION_SIGNS, VALIDATION_PAIRS, VALIDATION_SCENES, VALIDATION_WIDE = 128, 128, 48, 24, 8
FIRST_WIDE = 50_000_000  # the place in its range of the first seed whose scene is drawn wide


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a training is made of."""

    language: PackedLanguageModel
    projector: Projector
    encode: Encode
    pictures: Pictures
    training: Features
    validation: Features
    sheets: Features
    validation_sheets: Features
    tower: Callable[[], Dinov2Model]


class Trainer:
    """A training that goes on with `folder`'s checkpoint, or else with the file `committed`, or else begins."""

    def __init__(self, parts: Parts, recipe: Sequence[Stage], folder: Path, committed: Path | None = None) -> None:
        self.parts, self.recipe, self._folder = parts, recipe, folder
        self._optimizer = torch.optim.AdamW(
            [{"params": list(parts.projector.parameters())}, {"params": list(parts.language.lora.parameters())}],
            betas=(0.9, 0.95),
            weight_decay=0.01,
        )
        self._rng = np.random.default_rng(0)
        self.stage = self.step = self._fresh = 0
        self._seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume(committed)

    def run(self, minutes: float = math.inf) -> None:
        """Train for so long, or to the recipe's end."""
        end = time.monotonic() + 60 * minutes
        if self.stage == self.step == 0:
            self.parts.projector.standardise(torch.cat([self.parts.training[i] for i in range(self._first_scenes)]))
        while self.stage < len(self.recipe):
            if not self._run_stage(self.recipe[self.stage], end):
                return
            self.stage, self.step, self._fresh = self.stage + 1, 0, 0
            self.save()

    @property
    def _first_scenes(self) -> int:
        return min(40, self.parts.training.shard)

    def _run_stage(self, stage: Stage, end: float) -> bool:
        """Whether the stage was finished."""
        if stage.kind == "places":  # it takes a minute or two
            started = time.monotonic()
            words = directions(self.parts.language.embeddings, self.parts.encode)
            missing = teach_places(self.parts.projector, words, self.parts.training, stage)
            self._seconds += time.monotonic() - started
            self._log(stage=stage.kind, step=stage.steps, missing=round(missing, 4))
            return True
        loss_of = self._loss_of(stage)
        saved = started = time.monotonic()
        losses: list[float] = []
        while self.step < stage.steps:
            if time.monotonic() > end:
                self._seconds += time.monotonic() - started
                self.save()
                return False
            losses.append(self._train_step(stage, loss_of))
            now = time.monotonic()
            self._seconds, started = self._seconds + now - started, now
            if self.step % (ALIGN_LOG_EVERY if stage.kind == "align" else LOG_EVERY) == 0:
                self._log(stage=stage.kind, step=self.step, loss=round(float(np.mean(losses)), 4))
                losses = []
            if self.step == stage.steps or (self.step % EVALUATE_EVERY == 0 and stage.kind != "align"):
                self._log(stage=stage.kind, step=self.step, right=self.evaluate(stage))
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
        return True

    def _train_step(self, stage: Stage, loss_of: Callable[[], Tensor]) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * self.step / stage.steps))
        share = min(1.0, (self.step - self._fresh + 1) / RISE) * (LEAST + (1 - LEAST) * fall)
        for group, rate in zip(self._optimizer.param_groups, (stage.projector_rate, stage.rate), strict=True):
            group["lr"] = rate * share
        loss = loss_of()
        self._optimizer.zero_grad()
        loss.backward()
        for group in self._optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _loss_of(self, stage: Stage) -> Callable[[], Tensor]:
        """What gives a step's loss."""
        if stage.kind == "wide":
            return lambda: self._wide_loss(stage)
        if stage.kind != "align":
            return lambda: self._answer_loss(self.parts.projector, *self._batch(stage))
        alignment = self._alignment(self.parts.training, stage.shards * self.parts.training.shard)
        return lambda: alignment.loss(self.parts.projector, stage.rows, self._rng)

    def _alignment(self, features: Features, scenes: int) -> Alignment:
        embeddings = self.parts.language.embeddings
        return Alignment(features, range(scenes), self.parts.pictures, embeddings, self.parts.encode)

    def _answer_loss(self, project: Callable[[Tensor], Tensor], features: Tensor, packed: Packed) -> Tensor:
        states = self.parts.language(project(features), packed)
        return F.cross_entropy(self.parts.language.logits(states), packed.target[packed.target != IGNORE])

    def _wide_loss(self, stage: Stage) -> Tensor:
        """Of a wide scene, and of others, so that they aren't unlearnt."""
        features, order, packed, _ = self._wide(TRAINING_SEEDS[FIRST_WIDE + self.step])
        wide = self._answer_loss(self._arranged(order), features, packed)
        return (wide + self._answer_loss(self.parts.projector, *self._batch(stage))) / 2

    def _wide(self, seed: int) -> tuple[Tensor, Tensor, Packed, list[list[Question]]]:
        return wide_scene(seed, self.parts.pictures, self.parts.tower(), self.parts.encode)

    def _arranged(self, order: Tensor) -> Callable[[Tensor], Tensor]:
        """What projects crops' patches [n, 384] and puts them into their order, with rows' ends: [1, V, d]."""
        end = newline(self.parts.language.embeddings, self.parts.encode("\n"))[None].float()
        return lambda features: torch.cat([self.parts.projector(features), end])[order][None]  # -1 is the last

    def _batch(self, stage: Stage) -> tuple[Tensor, Packed]:
        """Of the stage's shards: random things or signs; scenes by shards, each in a new order in each stage."""
        features, shard = self.parts.training, self.parts.training.shard
        if stage.kind == "names":
            numbers = self._rng.integers(stage.shards * shard, size=stage.rows)
            return self._names(features, numbers, stage, self._rng)
        if stage.kind == "signs":
            numbers = self._rng.integers(stage.shards * self.parts.sheets.shard, size=stage.rows)
            return self._signs(self.parts.sheets, numbers, self._rng)
        if stage.kind == "pairs":
            numbers = self._rng.integers(stage.shards * shard, size=stage.rows)
            visual, packed, _ = self._pairs(features, numbers, stage, self._rng)
            return visual, packed
        round_, start = divmod(self.step * stage.rows, shard)
        order = np.random.default_rng([self.stage, round_]).permutation(shard)
        numbers = (self.stage + round_) % stage.shards * shard + order[(start + np.arange(stage.rows)) % shard]
        if stage.patches:
            return part_batch(features, numbers, stage.patches, self.parts.pictures, self.parts.encode, self._rng)
        visual, packed, _ = scene_batch(features, numbers, self.parts.pictures, self.parts.encode)
        return visual, packed

    def _names(
        self, features: Features, numbers: np.ndarray, stage: Stage, rng: np.random.Generator
    ) -> tuple[Tensor, Packed]:
        pictures, encode = self.parts.pictures, self.parts.encode
        return name_batch(features, numbers, stage.window, pictures, encode, rng)

    def _signs(self, sheets: Features, numbers: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Packed]:
        return sign_batch(sheets, numbers, self.parts.pictures, self.parts.encode, rng)

    def _pairs(
        self, features: Features, numbers: np.ndarray, stage: Stage, rng: np.random.Generator
    ) -> tuple[Tensor, Packed, list[list[Question]]]:
        pictures, encode = self.parts.pictures, self.parts.encode
        return pair_batch(features, numbers, stage.patches or SIDE**2, pictures, encode, rng)

    @torch.no_grad()
    def evaluate(self, stage: Stage) -> dict[str, float]:
        """Which share of validation questions is answered right, by kind: to the letter, as greedy decoding would."""
        validation = self.parts.validation
        if stage.kind == "align":
            return self._alignment(validation, min(100, validation.shard)).right(self.parts.projector)
        numbers = np.arange(min(VALIDATION_NAMES, validation.shard))
        project = self.parts.projector
        right = self._right(project, *self._names(validation, numbers, stage, np.random.default_rng(2)))
        found: dict[str, list[bool]] = {"name": [each[0] for each in right]}
        if stage.kind == "signs":
            numbers = np.arange(VALIDATION_SIGNS) % self.parts.validation_sheets.shard
            right = self._right(project, *self._signs(self.parts.validation_sheets, numbers, np.random.default_rng(3)))
            found["sign"] = [each[0] for each in right]
        if stage.kind == "pairs":
            numbers = np.arange(min(VALIDATION_PAIRS, validation.shard))
            visual, packed, asked = self._pairs(validation, numbers, stage, np.random.default_rng(4))
            _note(found, asked, self._right(project, visual, packed), "pair ")
        if stage.kind in ("scenes", "wide"):
            for start in range(0, min(VALIDATION_SCENES, validation.shard), stage.rows):
                numbers = np.arange(start, min(start + stage.rows, validation.shard))
                visual, packed, asked = scene_batch(validation, numbers, self.parts.pictures, self.parts.encode)
                _note(found, asked, self._right(project, visual, packed))
        if stage.kind == "wide":
            for seed in VALIDATION_SEEDS[FIRST_WIDE : FIRST_WIDE + VALIDATION_WIDE]:
                features, order, packed, asked = self._wide(seed)
                _note(found, asked, self._right(self._arranged(order), features, packed), "wide ")
        return {kind: round(float(np.mean(answers)), 3) for kind, answers in found.items()}

    def _right(self, project: Callable[[Tensor], Tensor], features: Tensor, packed: Packed) -> list[list[bool]]:
        """Whether each question's answer is the likeliest, token by token."""
        wanted = packed.target != IGNORE
        said = torch.full_like(packed.target, IGNORE)
        language = self.parts.language
        said[wanted] = language.logits(language(project(features), packed)).argmax(-1)
        same = said == packed.target
        counts = packed.segment.max(1).values + 1
        return [
            [bool(same[row][packed.segment[row] == number].all()) for number in range(int(count))]
            for row, count in enumerate(counts)
        ]

    def _log(self, **values: object) -> None:
        line = json.dumps({"hours": round(self._seconds / 3600, 3), **values})
        print(line, flush=True)
        with (self._folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Replace the checkpoint, at once."""
        state = {
            "projector": self.parts.projector.state_dict(),
            "lora": self.parts.language.lora.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": {"stage": self.stage, "step": self.step, "seconds": self._seconds},
            "rng": self._rng.bit_generator.state,
        }
        partial = self._folder / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self._folder / "checkpoint.pt")

    def _resume(self, committed: Path | None) -> None:
        path = self._folder / "checkpoint.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self._go_on(state["projector"], state["lora"], state["progress"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._rng.bit_generator.state = state["rng"]
        elif committed is not None and committed.is_file():
            about = about_trained(committed)
            self._go_on(*load_trained(committed), {name: float(about[name]) for name in ("stage", "step", "seconds")})
            self._fresh = self.step
            shutil.copy(committed.with_name("log.jsonl"), self._folder / "log.jsonl")

    def _go_on(self, projector: dict[str, Tensor], lora: dict[str, Tensor], progress: dict[str, float]) -> None:
        self.parts.projector.load_state_dict(projector)
        self.parts.language.lora.load_state_dict(lora)
        self.stage, self.step, self._seconds = int(progress["stage"]), int(progress["step"]), progress["seconds"]
        print(f"goes on at stage {self.stage}, step {self.step}, after {self._seconds / 3600:.2f} h", flush=True)


def _note(found: dict[str, list[bool]], asked: list[list[Question]], right: list[list[bool]], prefix: str = "") -> None:
    """Put whether each question was answered rightly to those of its kind."""
    for row, answers in zip(asked, right, strict=True):
        for question, is_right in zip(row, answers, strict=True):
            found.setdefault(prefix + question.type, []).append(is_right)
