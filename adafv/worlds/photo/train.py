"""Trains the projector and the low-rank additions: the world's models out of the published parts.

    python -m adafv.worlds.photo.train --model photo-aligned|photo [--minutes N]

Everything is kept in the cache folder (training/MODEL): the same command goes on where the last one stopped,
and log.jsonl has the losses and what validation scenes say. Scenes' features are computed as they are needed.

photo-aligned begins with a warm-up that pulls the patches of a thing towards the input embeddings of its name.
photo has none: its alignment is whatever the language model's loss makes of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Model

from adafv.worlds.photo.batches import BACKGROUND, name_batch, patch_labels, patch_names, scene_batch
from adafv.worlds.photo.cache import cache_folder, unpacked_folder
from adafv.worlds.photo.features import SHARD, Features, training_features, training_tower, validation_features
from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.packed import IGNORE, Packed, PackedLanguageModel
from adafv.worlds.photo.parts import load_language_model, load_tokenizer
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.scenes import make_scene

SAVE_EVERY = 120.0  # s
LOG_EVERY, EVALUATE_EVERY = 20, 200  # steps
WARM_UP_BATCH = 2048  # patches
WARM_UP_BACKGROUND = 1 / 12  # the share of background patches that it looks at
TEMPERATURE = 0.07  # of the warm-up's similarities
PREFIX = "<|im_start|>user\n"


@dataclass(frozen=True)
class Stage:
    """A part of the training. `shards` of scenes are drawn from."""

    kind: str  # "align": patches and names; "names": one thing in a window; "scenes": everything
    steps: int
    rows: int
    shards: int
    rate: float  # of the additions' learning; Adam's
    projector_rate: float
    window: int = 3  # patches
    things: int | None = None  # names are asked of the first so many things


RECIPES: dict[str, tuple[Stage, ...]] = {
    "photo-aligned": (
        Stage("align", 1500, WARM_UP_BATCH, 2, 0.0, 1e-3),
        Stage("names", 400, 64, 2, 1e-3, 2e-4),
        Stage("scenes", 12_000, 4, 20, 7e-4, 1e-4),
    ),
    "photo": (
        Stage("names", 1500, 64, 4, 1e-3, 1e-3, things=100),
        Stage("names", 1500, 64, 8, 1e-3, 5e-4),
        Stage("scenes", 12_000, 4, 20, 7e-4, 1e-4),
    ),
}


class Projector(nn.Module):
    """LLaVA's, under its names: two products with a GELU between. float [..., 384] -> [..., 576]"""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width_in, width_out), nn.Linear(width_out, width_out)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear_2(F.gelu(self.linear_1(features.float()))))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Make the first product begin as one of standardised features: [n, 384]. Their scales differ tenfold."""
        mean, deviation = features.float().mean(0), features.float().std(0)
        self.linear_1.weight /= deviation
        self.linear_1.bias -= self.linear_1.weight @ mean


class Trainer:
    def __init__(self, model: str, folder: Path) -> None:
        self.recipe, self.folder = RECIPES[model], folder
        torch.manual_seed(0)
        unpacked = unpacked_folder()
        language, self.tokenizer = load_language_model(unpacked), load_tokenizer(unpacked)
        self.encode = functools.cache(self._encode)
        self.pictures, self.features, self.validation = pictures(), training_features(), validation_features()
        self.language = PackedLanguageModel(
            cast(Any, language), lora_for(cast(Any, language).model), self._encode(PREFIX)
        )
        self.projector = Projector(384, language.config.hidden_size)
        self.names = patch_names(self.pictures)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.projector.parameters())}, {"params": list(self.language.lora.parameters())}],
            betas=(0.9, 0.95),
            weight_decay=0.01,
        )
        self.rng = np.random.default_rng(0)
        self.stage = self.step = 0
        self.seconds = 0.0
        self._resume()

    def _encode(self, text: str) -> list[int]:
        return cast(list[int], self.tokenizer(text).input_ids)

    def run(self, minutes: float) -> None:
        """Train for so long, or to the recipe's end."""
        end = time.monotonic() + 60 * minutes
        self._need(self.validation, 1)
        while self.stage < len(self.recipe):
            stage = self.recipe[self.stage]
            self._need(self.features, stage.shards if stage.kind != "scenes" else 1)
            if not self._run_stage(stage, end):
                return
            self.stage, self.step = self.stage + 1, 0
            self.save()

    def _need(self, features: Features, shards: int) -> None:
        for shard in range(shards):
            if not features.path(shard).is_file():
                features.compute(shard, self.tower)
                print(f"features: {shard + 1} shards", flush=True)

    @functools.cached_property
    def tower(self) -> Dinov2Model:
        return training_tower()

    def _run_stage(self, stage: Stage, end: float) -> bool:
        """Whether the stage was finished."""
        if self.stage == 0 and self.step == 0:
            self.projector.standardise(torch.cat([self.features[i] for i in range(40)]))
        loss_of = self._aligner(stage) if stage.kind == "align" else lambda: self._loss(stage)
        saved = started = time.monotonic()
        losses: list[float] = []
        while self.step < stage.steps:
            if time.monotonic() > end:
                self.seconds += time.monotonic() - started
                self.save()
                return False
            losses.append(self._train_step(stage, loss_of))
            every = LOG_EVERY * (10 if stage.kind == "align" else 1)
            if self.step % every == 0:
                now = time.monotonic()
                self.seconds, started = self.seconds + now - started, now
                self._log(stage=stage.kind, step=self.step, loss=float(np.mean(losses)))
                losses = []
            if (self.step % EVALUATE_EVERY == 0 and stage.kind != "align") or self.step == stage.steps:
                self._log(stage=stage.kind, step=self.step, right=self.evaluate(stage))
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        return True

    def _train_step(self, stage: Stage, loss_of: Callable[[], Tensor]) -> float:
        done = self.step / stage.steps
        share = min(1.0, (self.step + 1) / 30) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        for group, rate in zip(self.optimizer.param_groups, (stage.projector_rate, stage.rate), strict=True):
            group["lr"] = rate * share
        loss = loss_of()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _loss(self, stage: Stage) -> Tensor:
        visual, packed = self._batch(stage)
        states = self.language(self.projector(visual), packed)
        return F.cross_entropy(self.language.logits(states), packed.target[packed.target != IGNORE])

    def _batch(self, stage: Stage) -> tuple[Tensor, Packed]:
        if stage.kind == "names":
            numbers = self.rng.integers(stage.shards * SHARD, size=stage.rows)
            return name_batch(self.features, numbers, stage.window, self.pictures, self.encode, self.rng, stage.things)
        shard, start = divmod(self.step * stage.rows, SHARD)
        if not self.features.path(shard % stage.shards).is_file():
            self.features.compute(shard % stage.shards, self.tower)
        order = np.random.default_rng(shard).permutation(SHARD)
        numbers = shard % stage.shards * SHARD + order[(start + np.arange(stage.rows)) % SHARD]
        visual, packed, _ = scene_batch(self.features, numbers, self.pictures, self.encode)
        return visual, packed

    def _aligner(self, stage: Stage) -> Callable[[], Tensor]:
        """The warm-up's loss of a random batch of patches of the stage's scenes."""
        patches, labels = self._patches(self.features, range(stage.shards * SHARD))
        targets = self._name_embeddings()
        middle = self.language.embeddings.float().mean(0)
        goal = F.normalize(targets - middle, dim=-1)

        def loss() -> Tensor:
            chosen = torch.from_numpy(self.rng.integers(len(labels), size=stage.rows))
            projected, label = self.projector(patches[chosen]), labels[chosen]
            similarity = F.normalize(projected - middle, dim=-1) @ goal.T / TEMPERATURE
            distance = (projected - targets[label]).pow(2).sum(-1).mean()
            return F.cross_entropy(similarity, label) + 0.05 * distance

        return loss

    def _patches(self, features: Features, numbers: range) -> tuple[Tensor, Tensor]:
        """Patches [n, 384] of scenes and what they show [n]; the background's are few."""
        index = {name: i for i, name in enumerate(self.names)}
        rng = np.random.default_rng(1)
        patches, labels = [], []
        for number in numbers:
            label = patch_labels(make_scene(features.seed(number), self.pictures), self.pictures, index)
            kept = (label != index[BACKGROUND]) | (rng.random(len(label)) < WARM_UP_BACKGROUND)
            patches.append(features[number][torch.from_numpy(kept)])
            labels.append(torch.from_numpy(label[kept]))
        return torch.cat(patches), torch.cat(labels)

    def _name_embeddings(self) -> Tensor:
        """float [names, 576]: the mean of a name's input embeddings, as in the middle of a sentence."""
        embeddings = self.language.embeddings.float()
        return torch.stack([embeddings[self._encode(" " + name)].mean(0) for name in self.names])

    @torch.no_grad()
    def evaluate(self, stage: Stage, scenes: int = 24) -> dict[str, float]:
        """Shares of validation questions answered right, by kind; exact, as greedy decoding would answer."""
        rng = np.random.default_rng(2)
        if stage.kind == "align":
            patches, labels = self._patches(self.validation, range(100))
            targets, middle = self._name_embeddings(), self.language.embeddings.float().mean(0)
            near = F.normalize(self.projector(patches) - middle, dim=-1) @ F.normalize(targets - middle, dim=-1).T
            is_thing = labels < len(self.pictures.things)
            right = (near.argmax(-1) == labels).float()
            return {"things": float(right[is_thing].mean()), "others": float(right[~is_thing].mean())}
        found: dict[str, list[bool]] = {}
        visual, packed = name_batch(
            self.validation, np.arange(128), stage.window, self.pictures, self.encode, rng, stage.things
        )
        found["name"] = [each[0] for each in self._right(visual, packed)]
        if stage.kind == "scenes":
            for start in range(0, scenes, stage.rows):
                numbers = np.arange(start, start + stage.rows)
                visual, packed, asked = scene_batch(self.validation, numbers, self.pictures, self.encode)
                for row, right in zip(asked, self._right(visual, packed), strict=True):
                    for question, is_right in zip(row, right, strict=True):
                        found.setdefault(question.type, []).append(is_right)
        return {kind: round(float(np.mean(right)), 3) for kind, right in found.items()}

    def _right(self, visual: Tensor, packed: Packed) -> list[list[bool]]:
        """Whether each question's answer is the likeliest, token by token."""
        wanted = packed.target != IGNORE
        said = torch.full_like(packed.target, IGNORE)
        said[wanted] = self.language.logits(self.language(self.projector(visual), packed)).argmax(-1)
        same = said == packed.target
        return [
            [
                bool(same[row][packed.segment[row] == number].all())
                for number in range(int(packed.segment[row].max()) + 1)
            ]
            for row in range(len(same))
        ]

    def _log(self, **values: object) -> None:
        line = json.dumps({"hours": round(self.seconds / 3600, 3), **values})
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        state = {
            "projector": self.projector.state_dict(),
            "lora": self.language.lora.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"stage": self.stage, "step": self.step, "seconds": self.seconds},
            "rng": self.rng.bit_generator.state,
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.projector.load_state_dict(state["projector"])
        self.language.lora.load_state_dict(state["lora"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self.stage, self.step, self.seconds = (state["progress"][name] for name in ("stage", "step", "seconds"))
        print(f"goes on at stage {self.stage}, step {self.step}, after {self.seconds / 3600:.2f} h", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train a model of the photo world, or go on with it")
    parser.add_argument("--model", choices=RECIPES, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    options = parser.parse_args(arguments)
    Trainer(options.model, cache_folder() / "training" / options.model).run(options.minutes)


if __name__ == "__main__":
    main()
