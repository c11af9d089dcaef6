"""Trains the projector and the low-rank additions: the world's models out of the published parts.

    python -m adafv.worlds.photo.train --model photo-aligned|photo [--minutes N]

Everything is kept in the cache folder (training/MODEL): the same command goes on where the last one stopped, on another
machine from what export.py committed. log.jsonl has the losses and what validation scenes say. Scenes' features are
computed as they are needed.

photo-aligned begins with a warm-up that pulls the patches of a thing towards the input embeddings of its name. photo
has none: its alignment is whatever the language model's loss makes of it.
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import Any

import torch

from adafv.worlds.photo.cache import cache_folder, unpacked_folder
from adafv.worlds.photo.features import Features, training_dtype, training_tower
from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.model import trained_file
from adafv.worlds.photo.packed import PackedLanguageModel
from adafv.worlds.photo.parts import load_language_model, load_tokenizer, vision_config
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.recipes import RECIPES
from adafv.worlds.photo.scenes import TRAINING_SEEDS, VALIDATION_SEEDS, make_sheet
from adafv.worlds.photo.trainer import VALIDATION_NAMES, Parts, Trainer

SHEETS, VALIDATION_SHEETS = 200, 16  # in a shard
PREFIX = "<|im_start|>user\n"  # what stands before a picture


def load_parts() -> Parts:
    """The published parts, and what is trained of them, as it begins."""
    torch.manual_seed(0)
    language: Any = load_language_model(unpacked_folder())
    tokenizer: Any = load_tokenizer(unpacked_folder())
    encode = functools.cache(lambda text: tokenizer(text).input_ids)
    drawn, folder = pictures(), cache_folder() / "features"
    sheets = functools.partial(Features, folder / "sheets", pictures=drawn, tower=training_tower, make=make_sheet)
    return Parts(
        language=PackedLanguageModel(language, lora_for(language.model), encode(PREFIX), training_dtype()),
        projector=Projector(vision_config().hidden_size, language.config.hidden_size),
        encode=encode,
        pictures=drawn,
        training=Features(folder, TRAINING_SEEDS, drawn, training_tower),
        validation=Features(folder, VALIDATION_SEEDS, drawn, training_tower, shard=VALIDATION_NAMES),
        sheets=sheets(TRAINING_SEEDS, shard=SHEETS),
        validation_sheets=sheets(VALIDATION_SEEDS, shard=VALIDATION_SHEETS),
        tower=training_tower,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train a model of the photo world, or go on with it")
    parser.add_argument("--model", choices=RECIPES, required=True)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    options = parser.parse_args(arguments)
    folder = cache_folder() / "training" / options.model
    Trainer(load_parts(), RECIPES[options.model], folder, trained_file(options.model)).run(options.minutes)


if __name__ == "__main__":
    main()
