"""The options of a calibration: a job's options except those it sets itself, the candidates, and the demand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adafv.calibration.cascades import Cascade
from adafv.calibration.demand import ACCURACY, AGREEMENT, LOSS, Demand
from adafv.pipeline.arguments import job_options, make_parser, new_file, parse_arguments, parse_keeps, parse_strategies
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions, budget_name, option_fields, option_string
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.metrics import METRICS

UNPRUNED = "none"
SAMPLE, MIN_AGREEMENT, KEEPS, ESCALATES, METRIC = 500, 0.98, "0.5,0.25,0.1,0.05", "1.0", "exact"
# A job's options that a calibration sets itself.
DECIDED = (
    "output", "sample", "sample_adjacent", "strategy", "keep", "keep_tokens", "escalate", "escalate_below",
    "escalate_flags", "thresholds", "max_reject_rate", "allow_mixed", "run_id", "max_cost", "max_hours", "on_finish",
    "audit", "audit_fails", "min_agreement",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A strategy at a keep ratio, and the job that labels the sample with it."""

    strategy: str
    keep: float
    job: JobOptions


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What to calibrate.

    Attributes:
        job: common to all candidates; `output` is the folder of their outputs.
        text_tower: for strategies that use it.
        escalates: keep ratios of second looks.
        min_agreement: the least lower bound of a budget's agreement, by the measure `agreement`, unless the demand is
            on accuracy.
        min_accuracy: the least lower bound of its accuracy; `max_accuracy_loss`: the most it may be below the unpruned
            one.
        stratify: the column by which thresholds of second looks may differ.
        answer_column: the column with right answers; `metric`: how they are scored.
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
                    f"{option_string(name)} is {demanded}; it must be above 0 and below 1, since no sample shows either"
                )
        if self.min_accuracy is not None and self.max_accuracy_loss is not None:
            raise UsageError("give --min-accuracy or --max-accuracy-loss, not both: a calibration has one target")
        if self.demand.needs_truth and self.answer_column is None:
            raise UsageError(f"the target, {self.demand}, needs the right answers: give --answer-column")
        for name, value, known in (("agreement", self.agreement, AGREEMENTS), ("metric", self.metric, METRICS)):
            if value not in known:
                raise UsageError(f"--{name} is {value!r}; it must be one of {', '.join(known)}")
        if not self.strategies:
            raise UsageError("--strategies names none that prunes: there is nothing to compare")
        self.candidates()  # each is checked as a job's options

    @property
    def demand(self) -> Demand:
        """What the answers must reach."""
        if self.max_accuracy_loss is not None:
            return Demand(self.metric, -self.max_accuracy_loss, LOSS)
        if self.min_accuracy is not None:
            return Demand(self.metric, self.min_accuracy, ACCURACY)
        return Demand(self.agreement, self.min_agreement, AGREEMENT)

    def candidates(self) -> list[Candidate]:
        """The unpruned model, then each strategy at each budget, those of second looks included. Raises UsageError
        for invalid jobs."""
        from adafv.pruning import WITH_TEXT_TOWER  # here: it imports torch

        if self.text_tower is not None and not set(self.strategies) & set(WITH_TEXT_TOWER):
            raise UsageError(
                f"--text-tower is for {', '.join(WITH_TEXT_TOWER)} only, and --strategies names none of them"
            )
        keeps = dict.fromkeys((*self.keeps, *(keep for keep in self.escalates if keep < 1)))
        pairs = [(UNPRUNED, 1.0), *((strategy, keep) for strategy in self.strategies for keep in keeps)]
        return [Candidate(*pair, self._job(*pair)) for pair in pairs]

    def cascade_job(self, cascade: Cascade, thresholds: str | None = None) -> JobOptions:
        """The job that labels with it, in an output of its own; `thresholds`: those by stratum."""
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
            sample_adjacent=1,  # rows on many images tell more about answers
            **second_look,
        )


@dataclass(frozen=True)
class Command:
    """A command line: what to calibrate, and the files to write."""

    options: CalibrationOptions
    html: Path | None
    json: Path | None


def parse_command(arguments: Sequence[str], description: str, epilog: str, prog: str | None = None) -> Command:
    """Raises UsageError for wrong values; argparse exits with status 2 for unknown arguments."""
    parser = command_parser(description, epilog)
    parser.prog = prog or parser.prog
    values = parse_arguments(parser, arguments, decided=DECIDED)
    text_tower = values.pop("text_tower")  # which not every strategy reads
    job = job_options(values)
    if values["metric"] is not None and values["answer_column"] is None:
        raise UsageError("--metric needs the right answers: give --answer-column")
    on_accuracy = values["min_accuracy"] is not None or values["max_accuracy_loss"] is not None
    if on_accuracy and values["demanded"] is not None:
        raise UsageError("give --min-agreement or a target for accuracy, not both: a calibration has one target")
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
    """A parser for a job's options and a calibration's own."""
    parser = make_parser(description, epilog, without=DECIDED)
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--output",
        metavar="URI",
        help="folder or s3:// prefix for an output of each budget",
    )
    group.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        metavar="N",
        help="rows to label (default: %(default)s)",
    )
    group.add_argument(
        "--keep", dest="keeps", default=KEEPS, metavar="X,...",
        help="budgets: fractions of visual tokens to keep (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--escalate", dest="escalates", default=ESCALATES, metavar="X,...", help="keep ratios of second looks; 1.0 is "
        "unpruned, others are budgets too (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--strategies",
        default=option_fields()["strategy"].default,
        metavar="NAME,...",
        help="strategies to compare, or all (default: %(default)s)",
    )
    group.add_argument(
        "--min-agreement", dest="demanded", type=float, metavar="X",
        help=f"lower bound that agreement must reach (default: {MIN_AGREEMENT})",
    )  # fmt: skip
    group.add_argument(
        "--max-accuracy-loss", type=float, metavar="X",
        help="instead: how far accuracy may fall below unpruned",
    )  # fmt: skip
    group.add_argument("--min-accuracy", type=float, metavar="X", help="instead: accuracy that must be reached")
    group.add_argument(
        "--agreement", metavar="NAME",
        help=f"{', '.join(AGREEMENTS)} (default: normalised; rouge-l for a fixed --prompt)",
    )  # fmt: skip
    group.add_argument(
        "--stratify", metavar="NAME",
        help="column whose values get thresholds of their own",
    )  # fmt: skip
    group.add_argument("--answer-column", metavar="NAME", help="column with right answers, for accuracy")
    group.add_argument(
        "--metric", metavar="NAME", help=f"how answers are scored: {', '.join(METRICS)} (default: {METRIC})"
    )
    group.add_argument("--html", type=new_file, metavar="FILE", help="write a page with cost-quality curves")
    group.add_argument("--json", type=new_file, metavar="FILE", help="write all figures")
    return parser
