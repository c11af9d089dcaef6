"""One calibration: every candidate labels the sample through the job itself. The candidates' outputs are ordinary
job outputs side by side under `--output`, so the same command resumes a killed calibration, and one with another
budget, strategy or larger sample labels only what is new."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from adafv.calibration.answers import Answers, cost_per_1000, read_answers
from adafv.calibration.budgets import SEED, Budget, Comparison
from adafv.calibration.cascades import Cascade, CascadeFamily, cheapest
from adafv.calibration.command import command_line
from adafv.calibration.demand import AGREEMENT, Demand
from adafv.calibration.options import UNPRUNED, CalibrationOptions, Candidate
from adafv.calibration.second_looks import families
from adafv.calibration.strata import Stratified, StratumPlan, stratify
from adafv.calibration.truth import check_answers, check_column, read_strata, read_truth
from adafv.calibration.verdict import is_beyond, judge, recommend
from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.outputs.ledger import Ledger
from adafv.pipeline.redaction import redact
from adafv.pipeline.store.storage import Storage
from adafv.scoring.bounds import CONFIDENCE, Estimate

LOG = logging.getLogger("adafv")


@dataclass(frozen=True)
class Calibration:
    """The figures of each budget.

    Attributes:
        drawn: rows in the sample; `labelled`: of these, by the unpruned model; `images`: of these rows.
        unpruned: worker seconds per sample without pruning.
        accuracy: the unpruned model's, if right answers are known.
        unpruned_tokens: the language model's tokens per sample without pruning, prompt and answer.
        usd_per_hour: of a worker, as the unpruned labels record it.
        families: cascades of two keep ratios.
        stratified: thresholds by stratum, if asked for and any stratum has its own.
    """

    options: CalibrationOptions
    drawn: int
    labelled: int
    images: int
    unpruned: float
    accuracy: Estimate | None
    budgets: tuple[Budget, ...]
    unpruned_tokens: float
    families: tuple[CascadeFamily, ...]
    stratified: Stratified | None = None
    usd_per_hour: float | None = None

    @property
    def demand(self) -> Demand:
        return self.options.demand

    @property
    def price(self) -> float | None:
        """USD per hour of a worker."""
        job = self.options.job
        given = job.price_per_hour  # of one GPU, or of a CPU worker
        return self.usd_per_hour if given is None else given * job.engine.tensor_parallel

    @property
    def recommended(self) -> Budget | None:
        return recommend(self.budgets, self.demand)

    @property
    def is_too_small(self) -> bool:
        """Whether this sample can't show of any budget that it meets the demand."""
        return all(is_beyond(budget, self.demand) for budget in self.budgets)

    @property
    def command(self) -> str | None:
        """The command line for the recommended budget."""
        found = self.recommended
        return None if found is None else command_line(found.candidate.job)

    @property
    def cascade(self) -> Cascade | None:
        """The cheapest cascade shown to meet the demand."""
        return cheapest(self.families)

    @property
    def cascade_command(self) -> str | None:
        """The command line for the cascade."""
        found = self.cascade
        return None if found is None else command_line(self.options.cascade_job(found))

    @property
    def stratified_command(self) -> str | None:
        """The command line for thresholds by stratum."""
        found = self.stratified
        return None if found is None else command_line(self.options.cascade_job(found.common, found.thresholds))

    @property
    def next_command(self) -> str | None:
        """The cheapest of these, by the language model's tokens; None if unpruned is cheaper still."""
        ways = [
            (found.tokens, command)
            for found, command in (
                (self.recommended, self.command),
                (self.cascade, self.cascade_command),
                (self.stratified, self.stratified_command),
            )
            if found is not None and command is not None and found.tokens < self.unpruned_tokens
        ]
        return min(ways)[1] if ways else None

    def as_json(self) -> dict[str, Any]:
        options, found = self.options, self.recommended
        return {
            "input": [redact(uri) for uri in options.job.input],
            "model": redact(options.job.model),
            "sample": options.job.sample,
            "drawn": self.drawn,
            "images": self.images,
            "min_agreement": options.min_agreement if self.demand.of == AGREEMENT else None,
            "min_accuracy": options.min_accuracy,
            "max_accuracy_loss": options.max_accuracy_loss,
            "agreement": options.agreement,
            "confidence": CONFIDENCE,
            "seed": SEED,
            "price_per_hour": self.price,
            "unpruned": {
                "labelled": self.labelled,
                "accuracy": _interval(self.accuracy),
                **self._cost(self.unpruned),
                "samples_per_s": 1 / self.unpruned,
                "tokens": self.unpruned_tokens,
            },
            "budgets": [self._budget(budget) for budget in self.budgets],
            "recommended_strategy": None if found is None else found.strategy,
            "recommended_keep": None if found is None else found.keep,
            "sample_too_small": self.is_too_small,
            "least_sample": self.demand.fewest_rows(),
            "command": self.command,
            "cascade": None if self.cascade is None else self._cascade(self.cascade),
            "cascade_command": self.cascade_command,
            "stratify": options.stratify,
            "plans": [] if self.stratified is None else [self._plan(plan) for plan in self.stratified.plans],
            "plans_command": self.stratified_command,
            "cascades": [
                {"strategy": one.strategy, "tokens": one.tokens, **self._cascade(one)}
                for one in (each.chosen for each in self.families)
                if one is not None
            ],
        }

    def _plan(self, plan: StratumPlan) -> dict[str, Any]:
        low = plan.cascade.low if plan.own else None
        found = {"stratum": plan.stratum, "rows": plan.rows, "own": plan.own, "tokens": plan.cascade.tokens}
        return found | self._cascade(plan.cascade) | {"low": low}

    def _cascade(self, cascade: Cascade) -> dict[str, Any]:
        names = ("keep", "escalate", "threshold", "agreement", "low", "escalated_share")
        found = {name: getattr(cascade, name) for name in names} | self._cost(cascade.seconds)
        return found | ({} if cascade.accuracy is None else {"accuracy": cascade.accuracy})

    def _budget(self, budget: Budget) -> dict[str, Any]:
        agreement = budget.agreements[self.options.agreement]
        counted = ("compared", "left_out", "answered", "kept_tokens", "visual_tokens", "tokens")
        return {
            "strategy": budget.strategy,
            "keep": budget.keep,
            "agreement": agreement.value,
            "low": agreement.low,
            "high": agreement.high,
            **self._cost(budget.seconds),
            "samples_per_s": 1 / budget.seconds,
            "demanded": asdict(budget.demanded),
            "verdict": judge(budget, self.demand),
            "agreements": {name: asdict(each) for name, each in budget.agreements.items()},
            "accuracy": _interval(budget.accuracy),
            "accuracy_difference": _interval(budget.difference),
            **{name: getattr(budget, name) for name in counted},
        }

    def _cost(self, seconds: float) -> dict[str, float | None]:
        """Of 1,000 samples."""
        return {"cost_per_1000_usd": None if self.price is None else cost_per_1000(seconds, self.price)}


def _interval(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else asdict(estimate)


def calibrate(options: CalibrationOptions) -> Calibration:
    """Label the sample with every candidate, in one Ray session, and compare the answers with the unpruned ones.

    Raises:
        UsageError: the options can't be carried out.
        RunError: a run failed, or labelled nothing to compare.
    """
    from adafv.pipeline.control.session import ray_session  # here, so that a wrong option doesn't wait for Ray
    from adafv.pipeline.setup import with_commit

    options = replace(options, job=with_commit(options.job))
    storage, column = Storage.from_environment(options.job.s3_endpoint), options.answer_column
    if column is not None:
        check_answers(options.job, column, options.metric, storage)
    if options.stratify is not None:
        check_column(options.job, "--stratify", options.stratify, storage)
    unpruned, *candidates = options.candidates()
    with ray_session():
        sample = _label(unpruned, 1, len(candidates) + 1)
        for number, candidate in enumerate(candidates, 2):
            _label(candidate, number, len(candidates) + 1)
        truth = {} if column is None else read_truth(options.job, column, sample, storage, options.metric)
        strata = {} if options.stratify is None else read_strata(options.job, options.stratify, sample, storage)
    answers = read_answers(unpruned.job.output, sample, storage)
    if answers.seconds is None:
        raise RunError(f"no row of the sample was labelled: see {unpruned.job.output}/rejects")
    if column is not None and not truth.keys() & answers.rows.keys():
        wanted = "a text, a list of texts, or a list of {'answer': text}"
        raise UsageError(f"--answer-column {column!r} has no answer for any row of the sample; it must be {wanted}")
    comparison = Comparison(options, answers, truth, len(sample))
    labelled = {(each.strategy, each.keep): _read(each, answers, sample, storage) for each in candidates}
    found = families(options, answers, labelled, truth)
    by_stratum = stratify(options, answers, labelled, truth, strata, found) if strata else None
    return Calibration(
        options=options,
        drawn=len(sample),
        labelled=len(answers.rows),
        images=comparison.images,
        unpruned=answers.seconds,
        accuracy=comparison.accuracy,
        budgets=tuple(comparison.budget(each, labelled[each.strategy, each.keep]) for each in candidates),
        unpruned_tokens=answers.tokens,
        usd_per_hour=answers.usd_per_hour,
        families=found,
        stratified=by_stratum,
    )


def _label(candidate: Candidate, number: int, count: int) -> Ledger:
    """Run the job; returns the drawn rows."""
    from adafv.pipeline.run import run

    name = UNPRUNED if candidate.strategy == UNPRUNED else f"{candidate.strategy} at {candidate.keep:g}"
    LOG.info("%d of %d: %s", number, count, name)
    result = run(candidate.job)
    assert result.sample is not None  # since the job has a sample
    return result.sample


def _read(candidate: Candidate, unpruned: Answers, sample: Ledger, storage: Storage) -> Answers:
    """A candidate's answers to what the unpruned model answered, so that both are of the same rows."""
    answers = read_answers(candidate.job.output, sample, storage, unpruned.rows.keys())
    if not answers.rows:
        output = candidate.job.output
        raise RunError(f"{output} has no label whose row was also labelled unpruned: see {output}/rejects")
    return answers
