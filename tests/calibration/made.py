"""Calibrations made of answers that are known, without a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adafv.calibration.answers import Answers
from adafv.calibration.budgets import Budget, Change, Comparison
from adafv.calibration.calibration import Calibration
from adafv.calibration.cascades import CascadeFamily
from adafv.calibration.options import CalibrationOptions
from adafv.calibration.strata import Stratified
from adafv.pipeline.options import JobOptions
from adafv.scoring.bounds import Estimate


def options(**values: Any) -> CalibrationOptions:
    """`price`, `image`, `sample`, `input`, `prompt` and `prompts` are the job's."""
    names = {"price": "price_per_hour", "image": "image_root"}
    names |= {name: name for name in ("sample", "input", "prompt", "prompts")}
    job = {to: values.pop(name) for name, to in names.items() if name in values}
    given = {"strategies": ("adafv",), "keeps": (0.5, 0.1), "min_agreement": 0.9, "agreement": "normalised"} | values
    return CalibrationOptions(job=JobOptions.of(**{"input": ("in",), "output": "out", "sample": 100} | job), **given)


def answers(said: dict[str, str], seconds: float = 0.01, images: dict[str, str] | None = None) -> Answers:
    """By id; each on an image of its own, unless `images` say otherwise."""
    rows = {
        id: {
            "id": id,
            "image": (images or {}).get(id, f"{id}.jpg"),
            "question": f"{id}?",
            "answer": answer,
            "confidence": -0.1,
            "visual_tokens": 100,
            "kept_tokens": 10,
            "prompt_tokens": 30,
            "output_tokens": 2,
        }
        for id, answer in said.items()
    }
    return Answers(rows, seconds, 0.002, 10.0, 100.0, 32.0)


def budget(
    keep: float = 0.1,
    agreement: tuple[float, float, float] = (0.95, 0.92, 0.97),
    strategy: str = "adafv",
    **values: Any,
) -> Budget:
    """`agreement`: its value, low and high, by all measures."""
    given = {
        "compared": 100,
        "left_out": 0,
        "agreements": dict.fromkeys(("exact", "normalised", "f1", "rouge-l"), Estimate(*agreement)),
        "demanded": Estimate(*agreement),
        "best": Estimate(1.0, 0.964, 1.0),
        "answered": 0,
        "accuracy": None,
        "difference": None,
        "seconds": 0.01,
        "kept_tokens": 10.0,
        "visual_tokens": 100.0,
        "tokens": 32.0,
        "changes": (Change("a", "what?", "red", "blue"),),
    }
    candidate = options(strategies=(strategy,), keeps=(keep,)).candidates()[1]
    return Budget(candidate=candidate, **given | values)


def calibration(
    *budgets: Budget,
    unpruned: float = 0.02,
    families: Sequence[CascadeFamily] = (),
    stratified: Stratified | None = None,
    **values: Any,
) -> Calibration:
    accuracy = Estimate(0.9, 0.8, 0.95) if values.get("answer_column") else None
    return Calibration(
        options=options(**values),
        drawn=100,
        labelled=100,
        images=100,
        unpruned=unpruned,
        accuracy=accuracy,
        budgets=budgets,
        unpruned_tokens=122.0,
        families=tuple(families),
        stratified=stratified,
    )


def compared(
    unpruned: Answers, pruned: Answers, truth: dict[str, tuple[str, ...]] | None = None, **values: Any
) -> Budget:
    given = options(**values)
    return Comparison(given, unpruned, truth or {}, len(unpruned.rows)).budget(given.candidates()[1], pruned)
