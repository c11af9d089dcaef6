"""What is trained in which order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training.

    Attributes:
        kind: "align": patches are pulled towards the names of what they show; "names": one thing is seen through a
            window, and the question is what it is; "signs": a sign of a sheet is seen through a window, and is to be
            read; "pairs": two small things of a scene, and where they are; "scenes": whole scenes with all of their
            questions; "wide": a scene in LLaVA-NeXT's crops beside such scenes; "places": the projector learns where
            patches stand, in one go.
        steps: of the optimiser.
        rows: patches, things, signs or scenes in a step.
        shards: of scenes, or of sheets, that are drawn from.
        rate: Adam's, of the additions to the language model.
        projector_rate: Adam's, of the projector.
        window: patches on a side.
        patches: of each scene, those of small things and random others; None: all. With a quarter of them a step
            takes half as long.
    """

    kind: str
    steps: int
    rows: int
    shards: int
    rate: float
    projector_rate: float
    window: int = 3
    patches: int | None = None


PLACES = Stage(kind="places", steps=400, rows=2048, shards=1, rate=0.0, projector_rate=1e-3)

RECIPES: dict[str, tuple[Stage, ...]] = {
    "photo-aligned": (
        Stage(kind="align", steps=1500, rows=2048, shards=2, rate=0.0, projector_rate=1e-3),
        Stage(kind="names", steps=110, rows=64, shards=2, rate=1e-3, projector_rate=2e-4),
        Stage(kind="scenes", steps=430, rows=4, shards=4, rate=7e-4, projector_rate=2e-4, patches=144),
        PLACES,
        Stage(kind="scenes", steps=64, rows=4, shards=4, rate=7e-4, projector_rate=2e-4, patches=144),
        Stage(kind="signs", steps=150, rows=48, shards=1, rate=7e-4, projector_rate=2e-4),
        Stage(kind="scenes", steps=110, rows=4, shards=4, rate=7e-4, projector_rate=2e-4, patches=144),
        Stage(kind="pairs", steps=70, rows=12, shards=4, rate=7e-4, projector_rate=2e-4, patches=40),
        PLACES,
        Stage(kind="pairs", steps=70, rows=12, shards=4, rate=7e-4, projector_rate=2e-4, patches=40),
        Stage(kind="scenes", steps=200, rows=4, shards=4, rate=7e-4, projector_rate=2e-4, patches=144),
        Stage(kind="scenes", steps=350, rows=4, shards=8, rate=5e-4, projector_rate=1e-4),
        Stage(kind="wide", steps=200, rows=1, shards=8, rate=3e-4, projector_rate=1e-4),
    ),
    "photo": (
        Stage(kind="names", steps=2000, rows=64, shards=8, rate=1e-3, projector_rate=5e-4),
        PLACES,
        Stage(kind="pairs", steps=300, rows=12, shards=8, rate=1e-3, projector_rate=5e-4, patches=40),
        Stage(kind="signs", steps=500, rows=48, shards=3, rate=1e-3, projector_rate=5e-4),
        Stage(kind="scenes", steps=1500, rows=4, shards=20, rate=7e-4, projector_rate=1e-4, patches=144),
        Stage(kind="scenes", steps=1500, rows=4, shards=20, rate=7e-4, projector_rate=1e-4),
        Stage(kind="wide", steps=1000, rows=1, shards=20, rate=3e-4, projector_rate=1e-4),
    ),
}
