"""Stages that misbehave when a row's prompt says so, to be put in the place of the real ones by a test's hand.

A prompt such as `w7 label:die` is labelled like any other by the real stage; here its deed is done first.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import torch

from adafv.pipeline.workers.label import Labelling
from adafv.pipeline.workers.prepare import Preparing


def do_deeds(stage: str, texts: list[str]) -> None:
    """Do what the `texts` ask of `stage`: `STAGE:DEED`, or `STAGE:DEED@FILE`, which is done once: it leaves a file."""
    for text in texts:
        for deed, marker in re.findall(rf"{stage}:(\w+)(?:@(\S+))?", text):
            if not marker:
                DEEDS[deed]()
            elif not Path(marker).exists():
                Path(marker).touch()
                DEEDS[deed]()


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def orphan() -> None:
    """Kill the parent, a worker process of Ray's."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def hang() -> None:
    time.sleep(3600)


def fail() -> None:
    raise ValueError("no such luck")


def lose_device() -> None:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def exhaust() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


DEEDS = {f.__name__: f for f in (die, orphan, hang, fail, lose_device, exhaust)}


class BadPreparing(Preparing):
    def __call__(self, table, on_progress):
        do_deeds("prepare", table.column("prompt").to_pylist())
        return super().__call__(table, on_progress)


class BadLabelling(Labelling):
    """Does its deeds inside the engine, where a device's errors come from."""

    def __init__(self, options) -> None:
        super().__init__(options)
        label, self._texts = self._engine._label, []

        def label_badly(samples, on_progress):
            do_deeds("label", [self._texts[sample.id] for sample in samples])
            return label(samples, on_progress)

        self._engine._label = label_badly

    def __call__(self, table, on_progress):
        self._texts = dict(zip(table.column("id").to_pylist(), table.column("prompt").to_pylist(), strict=True))
        return super().__call__(table, on_progress)


class NoLabelling(Labelling):
    """Dies before it is given a row, as with a broken driver."""

    def __init__(self, options) -> None:
        die()
