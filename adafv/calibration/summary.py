"""What is printed: a table for each strategy, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from adafv.calibration.budgets import Budget
from adafv.calibration.calibration import Calibration
from adafv.calibration.command import is_whole
from adafv.calibration.verdict import UNDECIDED
from adafv.pipeline.redaction import redact
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bootstrap import Estimate
from adafv.scoring.bounds import rows_to_show


def summary(calibration: Calibration) -> str:
    """The text."""
    strategies = dict.fromkeys(budget.strategy for budget in calibration.budgets)
    tables = [
        _table(calibration, strategy, [each for each in calibration.budgets if each.strategy == strategy])
        for strategy in strategies
    ]
    command = calibration.command
    parts = ["\n".join(headline(calibration)), *tables, "\n".join(verdict(calibration))]
    return "\n\n".join([*parts, *([f"next:\n{command}"] if command else [])])


def headline(calibration: Calibration) -> list[str]:
    """What was compared."""
    options = calibration.options
    lines = [
        f"{calibration.drawn:,} rows drawn from {redact(', '.join(options.job.input))}: {calibration.labelled:,} "
        f"labelled unpruned, on {calibration.images:,} images",
        f"demanded: {options.agreement} agreement with the unpruned answers of {options.min_agreement:g} or more",
    ]
    if calibration.drawn < (options.job.sample or 0):
        lines.append(f"the input has no more rows; --sample is {options.job.sample:,}")
    return lines


def columns(calibration: Calibration) -> list[str]:
    """The names of a table's columns."""
    options = calibration.options
    rest = [name for name in AGREEMENTS if name != options.agreement]
    right = ["accuracy", "to unpruned"] if options.answer_column is not None else []
    cost = ["USD/1,000"] if options.job.price_per_hour is not None else []
    return ["kept", options.agreement, "95 % interval", "", *rest, *right, "ms", "samples/s", *cost]


def rows(calibration: Calibration, budgets: Sequence[Budget]) -> list[list[str]]:
    """The cells of a table: the unpruned model, then the budgets."""
    options, demand, seconds = calibration.options, calibration.demand, calibration.unpruned
    price = options.job.price_per_hour
    others = [name for name in AGREEMENTS if name != options.agreement]
    table = [["all", "", "", "", *("" for _ in others)]]
    table[0] += [_percent(calibration.accuracy), ""] if options.answer_column is not None else []
    table[0] += _costs(seconds, price)
    for budget in budgets:
        agreement = demand.of(budget)
        cells = [f"{budget.keep:g}", _share(agreement.value), f"{_share(agreement.low)} - {_share(agreement.high)}"]
        cells += [demand.judge(budget), *(_share(budget.agreements[name].value) for name in others)]
        if options.answer_column is not None:
            cells += [_percent(budget.accuracy), _change(budget.difference)]
        table.append([*cells, *_costs(budget.seconds, price)])
    return table


def _costs(seconds: float, price: float | None) -> list[str]:
    cost = [] if price is None else [_usd(1000 * seconds * price / 3600)]
    return [f"{1000 * seconds:,.1f}", f"{1 / seconds:,.1f}", *cost]


def _usd(value: float) -> str:
    return f"{value:,.4f}" if value >= 0.1 else f"{value:.3g}"


def _table(calibration: Calibration, strategy: str, budgets: Sequence[Budget]) -> str:
    table = [columns(calibration), *rows(calibration, budgets)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([strategy, *(f"  {line.rstrip()}" for line in lines)])


def verdict(calibration: Calibration) -> list[str]:
    """What follows from the figures, and what doesn't."""
    lines = [*_recommendation(calibration), *_undecided(calibration), *_left_out(calibration)]
    lines.append(
        "ms are of a worker for a sample, as labels account for it (gpu_seconds), without each worker's first batch. "
        "Start-up and idle time come on top: `adafv report` has them."
    )
    return lines


def _recommendation(calibration: Calibration) -> list[str]:
    options, found, demand = calibration.options, calibration.recommended, calibration.demand
    if found is not None:
        low = _share(demand.of(found).low)
        lines = [
            f"Recommended: {found.strategy} with --keep {found.keep:g}, the cheapest that meets the demand. It agrees "
            f"{low} or more."
        ]
        saved = 1 - found.seconds / calibration.unpruned
        if saved > 0:
            return [*lines, f"It takes {saved:.0%} less of a worker's time a sample than the unpruned model."]
        return [*lines, "But it takes no less of a worker's time a sample than the unpruned model, as measured here."]
    if calibration.is_too_small:
        needed = rows_to_show(options.min_agreement)
        best = max(budget.best.low for budget in calibration.budgets)
        return [
            f"The sample is too small to decide. If all its answers agreed, that would show {_share(best)} or more, "
            f"and {options.min_agreement:g} is demanded. That takes {needed:,} rows at least, on as many images: give "
            "a larger --sample, or a lower --min-agreement."
        ]
    return [
        "No budget is shown to meet the demand, so none is recommended: label unpruned, with --strategy none, or give "
        "a larger --keep, or a lower --min-agreement."
    ]


def _undecided(calibration: Calibration) -> list[str]:
    """Budgets that would be cheaper than what is recommended, if they could be shown to meet the demand."""
    if calibration.is_too_small:
        return []
    demand, found = calibration.demand, calibration.recommended
    lines = []
    for budget in calibration.budgets:
        cheaper = found is None or budget.strategy != found.strategy or budget.keep < found.keep
        if demand.judge(budget) != UNDECIDED or not cheaper:
            continue
        rows = demand.rows_needed(budget)
        more = (
            "it agrees less than demanded in this sample, though it may not in the data"
            if rows is None
            else f"a --sample of about {_rounded(rows):,} may show that it does"
        )
        lines.append(f"Not decided: whether {budget.strategy} with --keep {budget.keep:g} meets the demand; {more}.")
    return lines


def _left_out(calibration: Calibration) -> list[str]:
    """Rows that could not be compared, and what the command line lacks."""
    lines = []
    most = max(calibration.budgets, key=lambda budget: budget.left_out)
    if most.left_out:
        lines.append(
            f"Left out, since they were rejected unpruned or pruned: up to {most.left_out:,} rows; "
            f"{redact(most.candidate.job.output)}/rejects says why."
        )
    unanswered = max(budget.compared - budget.answered for budget in calibration.budgets)
    if calibration.options.answer_column is not None and unanswered:
        lines.append(f"Accuracy leaves out {unanswered:,} rows that have no answer.")
    if calibration.recommended is not None and not is_whole(calibration.options.job):
        lines.append("The command line lacks what may be a secret: put it back, or in the environment.")
    return lines


def _rounded(rows: int) -> int:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // step) * step


def _share(value: float) -> str:
    """Rounded down, so that no bound looks better than it is."""
    return f"{int(value * 10_000 + 1e-9) / 10_000:.4f}"


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.1%}"


def _change(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
