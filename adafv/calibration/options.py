"""The options of a calibration: those of a job, but for what is compared, and what the answers are held to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adafv.calibration.cascades import Cascade
from adafv.calibration.demand import ACCURACY, AGREEMENT, LOSS, Demand
from adafv.pipeline.arguments import job_options, make_parser, new_file, parse_arguments, parse_keeps, parse_strategies
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions, budget_name, flag, option_fields
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.metrics import METRICS

UNPRUNED = "none"
SAMPLE, MIN_AGREEMENT, KEEPS, ESCALATES, METRIC = 500, 0.98, "0.5,0.25,0.1,0.05", "1.0", "exact"
# Options of a job that a calibration decides: what is compared, and that each budget has an output of its own.
DECIDED = (
    "output", "sample", "sample_adjacent", "strategy", "keep", "keep_tokens", "escalate", "escalate_below",
    "thresholds", "max_reject_rate", "allow_mixed", "run_id", "max_cost", "max_hours", "on_finish",
    "audit", "audit_fails", "min_agreement",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One way to label: a strategy at a budget, and the job that labels the sample so."""

    strategy: str
    keep: float
    job: JobOptions


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What to calibrate.

    Attributes:
        job: what all candidates have in common; `output` is the folder that their outputs stand in.
        text_tower: of those strategies that read it.
        escalates: keep ratios of second looks.
        min_agreement: what the lower end of a budget's interval must reach, in the measure `agreement`; unless there is
            a demand on accuracy.
        min_accuracy: what that of its accuracy must; `max_accuracy_loss`: how far it may be below the unpruned one's.
        stratify: the column by which thresholds of second looks may differ, if any.
        answer_column: where the right answers are, if anywhere; `metric`: how they are scored.
    """

    job: JobOptions
    strategies: tuple[str, ...]
    keeps: tuple[float, ...]
    escalates: tuple[float, ...] = (1.0,)
    text_tower: str | None = None
    min_agreement: float = MIN_AGREEMENT
    min_accuracy: float | None = None
    max_accuracy_loss: float | None = None
    agreement: str
    stratify: str | None = None
    answer_column: str | None = None
    metric: str = METRIC

    def __post_init__(self) -> None:
        for name in ("min_agreement", "min_accuracy", "max_accuracy_loss"):
            demanded = getattr(self, name)
            if demanded is not None and not 0 < demanded < 1:
                raise UsageError(
                    f"{flag(name)} is {demanded}; it must be above 0 and below 1, since no sample shows either"
                )
        if self.min_accuracy is not None and self.max_accuracy_loss is not None:
            raise UsageError("--min-accuracy and --max-accuracy-loss are two demands, and a calibration has one")
        if self.demand.needs_truth and self.answer_column is None:
            raise UsageError(f"a demand for {self.demand} needs the right answers: --answer-column")
        for name, value, known in (("agreement", self.agreement, AGREEMENTS), ("metric", self.metric, METRICS)):
            if value not in known:
                raise UsageError(f"--{name} is {value!r}; it must be one of {', '.join(known)}")
        if not self.strategies:
            raise UsageError("--strategies names none that prunes; there is nothing to compare")
        self.candidates()  # each is checked as a job's options

    @property
    def demand(self) -> Demand:
        """What is asked of the answers."""
        if self.max_accuracy_loss is not None:
            return Demand(self.metric, -self.max_accuracy_loss, LOSS)
        if self.min_accuracy is not None:
            return Demand(self.metric, self.min_accuracy, ACCURACY)
        return Demand(self.agreement, self.min_agreement, AGREEMENT)

    def candidates(self) -> list[Candidate]:
        """The unpruned model, then each strategy at each budget, those of second looks among them.

        Raises UsageError for what no job could be told.
        """
        from adafv.pruning import WITH_TEXT_TOWER  # here: it imports torch

        if self.text_tower is not None and not set(self.strategies) & set(WITH_TEXT_TOWER):
            raise UsageError(f"--text-tower is read by {', '.join(WITH_TEXT_TOWER)} only, and none of them is compared")
        keeps = dict.fromkeys((*self.keeps, *(keep for keep in self.escalates if keep < 1)))
        pairs = [(UNPRUNED, 1.0), *((strategy, keep) for strategy in self.strategies for keep in keeps)]
        return [Candidate(*pair, self._job(*pair)) for pair in pairs]

    def cascade_job(self, cascade: Cascade, thresholds: str | None = None) -> JobOptions:
        """What labels with it, in an output of its own; with other `thresholds` by stratum."""
        second = {"escalate": cascade.escalate, "escalate_below": cascade.threshold}
        job = self._job(cascade.strategy, cascade.keep, **second)
        if thresholds is None:
            return job
        return job.changed(thresholds=thresholds, output=f"{job.output}-by-{self.stratify}")

    def _job(self, strategy: str, keep: float, **second_look: float) -> JobOptions:
        from adafv.pruning import WITH_TEXT_TOWER  # here: it imports torch

        return self.job.changed(
            strategy=strategy,
            keep=keep,
            text_tower=self.text_tower if strategy in WITH_TEXT_TOWER else None,
            output=f"{self.job.output.rstrip('/')}/{budget_name(strategy, keep, **second_look)}",
            sample_adjacent=1,  # rows on many pictures say more of answers
            **second_look,
        )


@dataclass(frozen=True)
class Command:
    """A command line: what to calibrate, and the files to write."""

    options: CalibrationOptions
    html: Path | None
    json: Path | None


def parse_command(arguments: Sequence[str], description: str, epilog: str, prog: str | None = None) -> Command:
    """Raises UsageError for wrong values; argparse itself exits, with status 2, for arguments that it doesn't know."""
    parser = command_parser(description, epilog)
    parser.prog = prog or parser.prog
    values = parse_arguments(parser, arguments, decided=DECIDED)
    text_tower = values.pop("text_tower")  # which not every strategy reads
    job = job_options(values)
    if values["metric"] is not None and values["answer_column"] is None:
        raise UsageError("--metric scores answers against those of --answer-column, which isn't given")
    on_accuracy = values["min_accuracy"] is not None or values["max_accuracy_loss"] is not None
    if on_accuracy and values["demanded"] is not None:
        raise UsageError("--min-agreement is a demand, and so is one on accuracy; a calibration has one")
    options = CalibrationOptions(
        job=job,
        strategies=tuple(parse_strategies(values["strategies"])),
        keeps=tuple(parse_keeps(values["keeps"])),
        escalates=tuple(parse_keeps(values["escalates"])),
        text_tower=text_tower,
        min_agreement=MIN_AGREEMENT if values["demanded"] is None else values["demanded"],
        min_accuracy=values["min_accuracy"],
        max_accuracy_loss=values["max_accuracy_loss"],
        agreement=values["agreement"] or job.agreement_measure(),
        stratify=values["stratify"],
        answer_column=values["answer_column"],
        metric=values["metric"] or METRIC,
    )
    return Command(options, values["html"], values["json"])


def command_parser(description: str = "", epilog: str = "") -> argparse.ArgumentParser:
    """A parser of a job's options and of a calibration's own."""
    parser = make_parser(description, epilog, without=DECIDED)
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--output", metavar="URI", help="where an output of each budget goes: a local folder or s3://; reused by reruns"
    )
    group.add_argument(
        "--sample", type=int, default=SAMPLE, metavar="N", help="rows to label, drawn at random (default: %(default)s)"
    )
    group.add_argument(
        "--keep", dest="keeps", default=KEEPS, metavar="X,...", help="budgets: fractions of the visual tokens"
        " (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--escalate", dest="escalates", default=ESCALATES, metavar="X,...", help="keep ratios of second looks; 1.0 is "
        "unpruned, and others are budgets, too (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--strategies",
        default=option_fields()["strategy"].default,
        metavar="NAME,...",
        help="names, or all (default: %(default)s)",
    )
    group.add_argument(
        "--min-agreement", dest="demanded", type=float, metavar="X",
        help=f"what the lower bound of the agreement with the unpruned answers must reach (default: {MIN_AGREEMENT})",
    )  # fmt: skip
    group.add_argument(
        "--max-accuracy-loss", type=float, metavar="X",
        help="instead: how far accuracy may fall below the unpruned model's at most, with --answer-column",
    )  # fmt: skip
    group.add_argument(
        "--min-accuracy", type=float, metavar="X", help="instead: what accuracy must reach, with --answer-column"
    )
    group.add_argument(
        "--agreement", metavar="NAME",
        help=f"how it is measured: {', '.join(AGREEMENTS)} (default: normalised; rouge-l for a fixed --prompt)",
    )  # fmt: skip
    group.add_argument(
        "--stratify", metavar="NAME", help="column by whose values thresholds of second looks may differ, such as the "
        "type of question",
    )  # fmt: skip
    group.add_argument("--answer-column", metavar="NAME", help="column with the right answer or answers, for accuracy")
    group.add_argument("--metric", metavar="NAME", help=f"how answers are scored: {', '.join(METRICS)} ({METRIC})")
    group.add_argument("--html", type=new_file, metavar="FILE", help="write a page with cost-quality curves to FILE")
    group.add_argument("--json", type=new_file, metavar="FILE", help="write all figures to FILE")
    return parser
