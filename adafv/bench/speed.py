"""How fast it is: the unpruned stock model, the reference method, and the engine, on the same samples in one run.

All answer the same questions about the same pictures with the same random weights (`shapes`), stock transformers on a
CPU only the first half of them, and all answers are as long as they may be. The rows take turns in rounds, in an order
that reverses: what else the machine does, and how warm it is, falls on all alike. In its turn a row makes what it needs
anew, warms up untimed, and answers its questions. What is reported of a row is its median round.

How the figures are counted, and how to read them, is in docs/speed.md.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch

from adafv.bench import ceilings
from adafv.bench.ceilings import synchronise
from adafv.bench.memory import PeakMemory
from adafv.bench.process import apart
from adafv.bench.rivals import Again, BatchAnswers, General, Ours, Reference, Rival, Stock, Vllm, engine_options
from adafv.bench.shapes import PRESETS, BenchQuestion, Shape, Subject, ask
from adafv.bench.speed_rows import STOCK, UNPRUNED, Entrant, RoundResult, median, row_of, table
from adafv.pipeline.errors import UsageError

logger = logging.getLogger(__name__)

KEEPS = (0.25, 0.1, 0.05)
LEAST = KEEPS[-1]
# By device. On a CPU as many as `cpu-small` has time for: all of it is to take less than 8 minutes on two cores.
SUITABLE: dict[str, dict[str, Any]] = {
    "cpu": {"samples": 16, "batch_size": 16, "dtype": "float32"},
    "cuda": {"samples": 128, "batch_size": 64, "dtype": "bfloat16"},
}
# Of the questions, what stock transformers answers on a CPU, where it takes as long as all others. Where questions are
# of several sizes it answers all: their first half is another mixture.
STOCK_SHARE = 0.5
PATIENCE = 30.0  # seconds that warming up with a whole batch may take on a CPU, by the first sample's time
LEFT_OUT = f"vllm-none and vllm-{LEAST} are left out: vLLM isn't installed"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        preset: a key of `shapes.PRESETS`.
        rows: names of rows; empty for all.
        strategy: of the pruned rows that don't name theirs.
        samples: how many questions a row answers in a turn (`Entrant.share`), `questions` about each picture,
            `batch_size` at once.
        mixed: pictures of several sizes and questions of several lengths.
        max_new_tokens: tokens of each answer.
        rounds: how many turns each row has.
        again: the share of the answers that `ours-…-again` asks again unpruned.
        device, dtype: torch's names.
        threads: of a CPU.
    """

    preset: str
    rows: tuple[str, ...]
    strategy: str
    samples: int
    questions: int
    batch_size: int
    mixed: bool
    max_new_tokens: int
    rounds: int
    again: float
    device: str
    dtype: str
    threads: int

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """What is given; where that is None, what suits the device.

        Raises:
            UsageError: there is no such device.
        """
        given["device"] = device_of(given["device"])
        suits = SUITABLE[given["device"]] | {"threads": len(os.sched_getaffinity(0))}
        filled: dict[str, Any] = {name: suits.get(name) if value is None else value for name, value in given.items()}
        return cls(**filled)


def device_of(given: str | None) -> str:
    """What is given, or a GPU where there is one. Raises UsageError where there isn't and it is given."""
    found = torch.cuda.is_available()
    if given == "cuda" and not found:
        raise UsageError("--device cuda: torch finds no GPU here")
    return given or ("cuda" if found else "cpu")


@dataclass(frozen=True)
class Asked:
    """What all rows are asked, and what to warm up with: about other pictures, since the engine knows one again."""

    warm_up: list[BenchQuestion]
    questions: list[BenchQuestion]

    def first(self, share: float) -> Asked:
        return Asked(self.warm_up, self.questions[: max(1, round(share * len(self.questions)))])

    @classmethod
    def of(cls, shape: Shape, settings: Settings) -> Asked:
        counts = (min(settings.batch_size, settings.samples), settings.samples)
        warm_up, questions = (
            ask(shape, count, settings.questions, settings.mixed, seed) for seed, count in enumerate(counts)
        )
        return cls(warm_up, questions)


@dataclass(frozen=True)
class Prepared:
    """The same in batches, as rivals of one kind take them; of what to warm up with also the `first` by itself."""

    first: Any
    warm_up: Any
    batches: list[Any]


def run(settings: Settings, shape: Shape | None = None) -> tuple[dict[str, Any], str]:
    """The figures, and a table of them; of the preset's shape, or another.

    Raises:
        UsageError: there is no row of a name that is given.
    """
    shape = shape or PRESETS[settings.preset]
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    torch.set_num_threads(settings.threads)
    subject = Subject.build(shape, device, dtype)
    asked = Asked.of(shape, settings)
    with TemporaryDirectory(prefix="speed-") as folder:
        entrants = _named(_entrants(subject, folder, settings), settings.rows)
        if any(entrant.backend == "vllm" for entrant in entrants):
            subject.save(folder)
        ceiling = ceilings.measure(device, dtype)
        turns = _rounds(entrants, asked, settings, shape)
    speeds = {name: median(of_row).samples_per_s for name, of_row in turns.items()}
    rows = [row_of(entrant, turns[entrant.name], speeds, subject, ceiling) for entrant in entrants]
    figures = {
        "preset": settings.preset,
        "settings": asdict(settings) | {package: version(package) for package in ("torch", "transformers")},
        "ceilings": asdict(ceiling),
        "rows": [asdict(row) for row in rows],
    }
    left_out = [] if _has_vllm() else ["", LEFT_OUT]
    return figures, "\n".join([_title(settings), str(ceiling), "", table(rows), *left_out])


def _entrants(subject: Subject, folder: str, settings: Settings) -> Iterator[Entrant]:
    tokens, batch = settings.max_new_tokens, settings.batch_size
    share = STOCK_SHARE if settings.device == "cpu" and not settings.mixed else 1.0
    yield Entrant(STOCK, "transformers", "none", 1.0, Stock(subject, tokens, batch), share)
    yield Entrant(f"reference-{LEAST}", "transformers", "adafv-paper", LEAST, Reference(subject, LEAST, tokens))
    for name, strategy, keep in (
        (UNPRUNED, "none", 1.0),
        *((f"ours-{keep}", settings.strategy, keep) for keep in KEEPS),
        (f"ours-{LEAST}-adafv", "adafv", LEAST),
    ):
        yield Entrant(
            name, "transformers", strategy, keep, Ours(subject, engine_options(settings, strategy, keep), batch)
        )
    general = General(subject, engine_options(settings, settings.strategy, LEAST), batch)
    yield Entrant(f"ours-{LEAST}-general", "transformers", settings.strategy, LEAST, general)
    again = Again(subject, engine_options(settings, settings.strategy, LEAST), batch, settings.again)
    yield Entrant(f"ours-{LEAST}-again", "transformers", settings.strategy, LEAST, again)
    if _has_vllm():
        for name, strategy, keep in (("vllm-none", "none", 1.0), (f"vllm-{LEAST}", settings.strategy, LEAST)):
            options = engine_options(settings, strategy, keep, "vllm")
            yield Entrant(name, "vllm", strategy, keep, Vllm(folder, options, batch))


def _has_vllm() -> bool:
    return find_spec("vllm") is not None


def _named(entrants: Iterator[Entrant], names: Sequence[str]) -> list[Entrant]:
    known = {entrant.name: entrant for entrant in entrants}
    unknown = [name for name in names if name not in known]
    if unknown:
        left_out = "" if _has_vllm() else f" ({LEFT_OUT})"
        raise UsageError(f"--rows names {', '.join(unknown)}; there are {', '.join(known)}{left_out}")
    return [entrant for name, entrant in known.items() if not names or name in names]


def _rounds(
    entrants: Sequence[Entrant], asked: Asked, settings: Settings, shape: Shape
) -> dict[str, list[RoundResult]]:
    """The turns of each row, by its name. On a CPU each is in a process of its own, for its memory is kept as that row
    keeps it; on a GPU only vLLM's are: there a model takes long to build.
    """
    device = torch.device(settings.device)
    prepared: dict[type[Rival], Prepared] = {}
    turns: dict[str, list[RoundResult]] = {entrant.name: [] for entrant in entrants}
    for number in range(settings.rounds):
        for entrant in entrants if number % 2 == 0 else reversed(entrants):
            kind, rival = type(entrant.rival), entrant.rival
            if entrant.backend == "vllm":
                turn = _turn_apart(rival, asked, device, settings.threads)
            elif device.type == "cpu":
                turn = apart(_build_and_turn, entrant.name, settings, shape)
            else:
                prepared[kind] = prepared.get(kind) or _prepare(rival, asked)
                turn = _turn(rival, prepared[kind], device)
            _check(entrant.name, turn.answered, settings.max_new_tokens)
            turns[entrant.name].append(turn)
            logger.info("round %d: %s, %.3g samples/s", number + 1, entrant.name, turn.samples_per_s)
    return turns


def _turn_apart(rival: Rival, asked: Asked, device: torch.device, threads: int) -> RoundResult:
    """In a process of its own, whose device has what memory others left."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return apart(_prepare_and_turn, rival, asked, device, threads)


def _build_and_turn(name: str, settings: Settings, shape: Shape) -> RoundResult:
    """The turn of the row of that name. A model of the same shape has the same weights wherever it is built."""
    device = torch.device(settings.device)
    torch.set_num_threads(settings.threads)
    subject = Subject.build(shape, device, getattr(torch, settings.dtype))
    (entrant,) = _named(_entrants(subject, "", settings), [name])
    asked = Asked.of(shape, settings).first(entrant.share)
    return _turn(entrant.rival, _prepare(entrant.rival, asked), device)


def _prepare_and_turn(rival: Rival, asked: Asked, device: torch.device, threads: int) -> RoundResult:
    torch.set_num_threads(threads)
    return _turn(rival, _prepare(rival, asked), device)


def _prepare(rival: Rival, asked: Asked) -> Prepared:
    questions, size = asked.questions, rival.batch_size
    batches = [rival.prepare(questions[start : start + size]) for start in range(0, len(questions), size)]
    return Prepared(rival.prepare(asked.warm_up[:1]), rival.prepare(asked.warm_up[:size]), batches)


def _turn(rival: Rival, prepared: Prepared, device: torch.device) -> RoundResult:
    memory = PeakMemory(device)
    started = rival.start()
    start = time.perf_counter()
    started.answer(prepared.first)
    synchronise(device)
    if device.type != "cpu" or (time.perf_counter() - start) * rival.batch_size < PATIENCE:
        started.answer(prepared.warm_up)
        synchronise(device)
    start, cpu = time.perf_counter(), time.process_time()
    answered = [started.answer(batch) for batch in prepared.batches]
    synchronise(device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    weights = sum(weight.nbytes for weight in started.model.parameters())
    return RoundResult(seconds, answered, weights + memory.growth(), cpu)


def _check(name: str, answered: Sequence[BatchAnswers], tokens: int) -> None:
    """A row with shorter answers would win for nothing."""
    lengths = {sample.outputs for each in answered for sample in each.counts}
    if lengths != {tokens}:
        raise RuntimeError(f"{name} answered with {sorted(lengths)} tokens instead of {tokens}")


def _title(settings: Settings) -> str:
    where = torch.cuda.get_device_name() if settings.device == "cuda" else f"{settings.threads} threads"
    return (
        f"{settings.preset}, random weights, {settings.dtype}, {where}; {settings.samples} samples, "
        f"{settings.questions} a picture{', mixed' if settings.mixed else ''}, batches of {settings.batch_size}, "
        f"{settings.max_new_tokens} new tokens; medians of {settings.rounds} rounds"
    )
