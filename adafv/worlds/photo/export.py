"""Put what has been trained so far beside the code: the weights in bfloat16, and the log.

    python -m adafv.worlds.photo.export --model photo-aligned|photo

Writes weights/MODEL/trained.safetensors and log.jsonl; `make photo` builds checkpoints of them, and `train` begins with
them where the cache folder holds nothing.
"""

from __future__ import annotations

import argparse
import json

import torch

from adafv.worlds.photo.cache import cache_folder
from adafv.worlds.photo.model import save_trained, trained_file
from adafv.worlds.photo.recipes import RECIPES


def export(model: str) -> None:
    folder = cache_folder() / "training" / model
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    progress = {name: str(value) for name, value in state["progress"].items()}
    file = trained_file(model)
    save_trained(file, state["projector"], state["lora"], {"model": model, **progress})
    lines = (folder / "log.jsonl").read_text().splitlines()
    file.with_name("log.jsonl").write_text("\n".join(condensed(lines)) + "\n")
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {progress}")


def condensed(lines: list[str], losses: int = 60) -> list[str]:
    """All evaluations of a log, and about so many of its losses, evenly."""
    is_loss = ["loss" in json.loads(line) for line in lines]
    step = max(1, sum(is_loss) // losses)
    counted = [sum(is_loss[: i + 1]) for i in range(len(lines))]
    return [line for line, loss, count in zip(lines, is_loss, counted, strict=True) if not loss or count % step == 0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="put what has been trained so far beside the code")
    parser.add_argument("--model", choices=RECIPES, required=True)
    export(parser.parse_args(arguments).model)


if __name__ == "__main__":
    main()
