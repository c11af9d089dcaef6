"""What is printed: a table for each strategy, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from adafv.calibration.budgets import Budget
from adafv.calibration.calibration import Calibration
from adafv.calibration.cascades import Cascade
from adafv.calibration.command import is_whole
from adafv.calibration.demand import ACCURACY, AGREEMENT, LOSS
from adafv.calibration.demand import share as _share
from adafv.calibration.verdict import UNDECIDED, judge, rows_needed
from adafv.pipeline.redaction import redact
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bootstrap import Estimate

SECOND_LOOKS, BY_STRATUM = "second looks", "second looks by stratum"


def summary(calibration: Calibration) -> str:
    """The text."""
    strategies = dict.fromkeys(budget.strategy for budget in calibration.budgets)
    tables = [
        _table(calibration, strategy, [each for each in calibration.budgets if each.strategy == strategy])
        for strategy in strategies
    ]
    if found := cascade_rows(calibration):
        tables.append(_aligned(SECOND_LOOKS, [cascade_columns(calibration), *found]))
    if by_stratum := stratum_rows(calibration):
        tables.append(_aligned(BY_STRATUM, [stratum_columns(calibration), *by_stratum]))
    command = calibration.next_command
    parts = ["\n".join(headline(calibration)), *tables, "\n".join(verdict(calibration))]
    return "\n\n".join([*parts, *([f"next:\n{command}"] if command else [])])


def headline(calibration: Calibration) -> list[str]:
    """What was compared."""
    options = calibration.options
    lines = [
        f"{calibration.drawn:,} rows drawn from {redact(', '.join(options.job.input))}: {calibration.labelled:,} "
        f"labelled unpruned, on {calibration.images:,} images",
        f"demanded: {calibration.demand}",
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
        agreement = budget.agreements[options.agreement]
        cells = [f"{budget.keep:g}", _share(agreement.value), f"{_share(agreement.low)} - {_share(agreement.high)}"]
        cells += [judge(budget, demand), *(_share(budget.agreements[name].value) for name in others)]
        if options.answer_column is not None:
            cells += [_percent(budget.accuracy), _change(budget.difference)]
        table.append([*cells, *_costs(budget.seconds, price)])
    return table


def cascade_columns(calibration: Calibration) -> list[str]:
    """The names of the columns of cascades."""
    cost = ["USD/1,000"] if calibration.options.job.price_per_hour is not None else []
    options, of = calibration.options, calibration.demand.of
    right = ["accuracy"] if options.answer_column is not None else []
    low = {AGREEMENT: "at least", ACCURACY: "accuracy at least", LOSS: "to unpruned at least"}[of]
    return ["kept", "then", "below", "asked again", options.agreement, *right, low, "tokens", "ms", *cost]


def cascade_rows(calibration: Calibration) -> list[list[str]]:
    """The cells of their table: of each pair of keep ratios the cheapest that meets the demand."""
    return [_cascade_cells(calibration, each.chosen) for each in calibration.families if each.chosen is not None]


def _cascade_cells(calibration: Calibration, found: Cascade) -> list[str]:
    several, cost = len(calibration.options.strategies) > 1, found.cost_per_1000(calibration.options.job.price_per_hour)
    return [
        f"{found.strategy} {found.keep:g}" if several else f"{found.keep:g}",
        "all" if found.escalate == 1 else f"{found.escalate:g}",
        f"{found.threshold:g}",
        f"{found.escalated_share:.1%}",
        _share(found.agreement),
        *([] if calibration.options.answer_column is None else [_right(found.accuracy)]),
        _share(found.low),
        f"{found.tokens:,.1f}",
        f"{1000 * found.seconds:,.1f}",
        *([] if cost is None else [_usd(cost)]),
    ]


def stratum_columns(calibration: Calibration) -> list[str]:
    """The names of the columns of plans by stratum."""
    kept, then, *rest = cascade_columns(calibration)
    return [str(calibration.options.stratify), "rows", kept, then, *rest, ""]


def stratum_rows(calibration: Calibration) -> list[list[str]]:
    """The cells of their table."""
    if calibration.stratified is None:
        return []
    low = cascade_columns(calibration).index("tokens") - 1
    table = []
    for plan in calibration.stratified.plans:
        cells = _cascade_cells(calibration, plan.cascade)
        if not plan.own:
            cells[low] = ""
        table.append([plan.stratum, f"{plan.rows:,}", *cells, "" if plan.own else "the common threshold"])
    return table


def _costs(seconds: float, price: float | None) -> list[str]:
    cost = [] if price is None else [_usd(1000 * seconds * price / 3600)]
    return [f"{1000 * seconds:,.1f}", f"{1 / seconds:,.1f}", *cost]


def _usd(value: float) -> str:
    return f"{value:,.4f}" if value >= 0.1 else f"{value:.3g}"


def _table(calibration: Calibration, strategy: str, budgets: Sequence[Budget]) -> str:
    return _aligned(strategy, [columns(calibration), *rows(calibration, budgets)])


def _aligned(title: str, table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([title, *(f"  {line.rstrip()}" for line in lines)])


def verdict(calibration: Calibration) -> list[str]:
    """What follows from the figures, and what doesn't."""
    lines = [
        *_recommendation(calibration),
        *_undecided(calibration),
        *_second_looks(calibration),
        *_by_stratum(calibration),
    ]
    lines += _left_out(calibration)
    lines.append(
        "ms are of a worker for a sample, as labels account for it (gpu_seconds), without each worker's first batch. "
        "Start-up and idle time come on top: `adafv report` has them."
    )
    return lines


def _recommendation(calibration: Calibration) -> list[str]:
    found, demand = calibration.recommended, calibration.demand
    if found is not None:
        lines = [
            f"Recommended: {found.strategy} with --keep {found.keep:g}, the cheapest that meets the demand. "
            f"{demand.promise(found.demanded.low)}."
        ]
        saved = 1 - found.seconds / calibration.unpruned
        if saved > 0:
            return [*lines, f"It takes {saved:.0%} less of a worker's time a sample than the unpruned model."]
        return [*lines, "But it takes no less of a worker's time a sample than the unpruned model, as measured here."]
    if calibration.cascade is not None and calibration.cascade.tokens < calibration.unpruned_tokens:
        return ["No fixed budget is shown to meet the demand."]
    if calibration.is_too_small:
        needed, best = demand.fewest_rows(), max(budget.best.low for budget in calibration.budgets)
        rows = "" if needed is None else f" That takes {needed:,} rows at least, on as many images."
        return [
            f"The sample is too small to decide. If all its answers were the unpruned ones, that would show "
            f"{_share(best)} or more, and {demand.least:g} is demanded.{rows} Give a larger --sample, or demand less."
        ]
    return [
        "No budget is shown to meet the demand, so none is recommended: label unpruned, with --strategy none, or give "
        "a larger --keep, or demand less."
    ]


def _undecided(calibration: Calibration) -> list[str]:
    """Budgets that would be cheaper than what is recommended, if they could be shown to meet the demand."""
    if calibration.is_too_small:
        return []
    demand, found = calibration.demand, calibration.recommended
    lines = []
    for budget in calibration.budgets:
        cheaper = found is None or budget.strategy != found.strategy or budget.keep < found.keep
        if judge(budget, demand) != UNDECIDED or not cheaper:
            continue
        rows = rows_needed(budget, demand)
        more = (
            "it falls short in this sample, though it may not in the data"
            if rows is None
            else f"a --sample of about {_rounded(rows):,} may show that it does"
        )
        lines.append(f"Not decided: whether {budget.strategy} with --keep {budget.keep:g} meets the demand; {more}.")
    return lines


def _second_looks(calibration: Calibration) -> list[str]:
    """What the cheapest cascade promises and costs, beside the unpruned model and fixed budgets."""
    found, whole, fixed = calibration.cascade, calibration.unpruned_tokens, calibration.recommended
    if found is None:
        return ["No threshold for second looks is shown to meet the demand."] if calibration.families else []
    tokens = "all tokens" if found.escalate == 1 else f"{found.escalate:g} of the tokens"
    promise, pairs = calibration.demand.promise(found.low), len(calibration.families)
    lines = [
        f"With second looks: {found.strategy} with --keep {found.keep:g}, and the least sure "
        f"{found.escalated_share:.1%} of the answers asked again with {tokens}. {promise}, with 95 % confidence, also "
        f"after choosing among {pairs} pairs of keep ratios."
    ]
    if found.tokens >= whole:
        return [
            *lines,
            f"But the language model takes {found.tokens:,.0f} tokens a sample then; unpruned, {whole:,.0f}.",
        ]
    beside = ""
    if fixed is not None:
        beside = f" and {fixed.tokens:,.0f} of the cheapest fixed budget that meets the demand"
    return [
        *lines,
        f"The language model takes {found.tokens:,.0f} tokens a sample, {1 - found.tokens / whole:.0%} less than the "
        f"{whole:,.0f} unpruned{beside}. A worker takes {1000 * found.seconds:,.1f} ms, unpruned "
        f"{1000 * calibration.unpruned:,.1f} ms.",
    ]


def _by_stratum(calibration: Calibration) -> list[str]:
    """What thresholds by stratum promise and cost, and which strata have none of their own."""
    column, found = calibration.options.stratify, calibration.stratified
    if column is None:
        return []
    if found is None:
        return [f"No {column} has the rows that a threshold of its own takes: give a larger --sample."]
    own = [plan for plan in found.plans if plan.own]
    lines = [
        f"By {column}: {len(own)} of {len(found.plans)} have a threshold of their own, and the promise holds in each "
        f"of these, all at once, with 95 % confidence. Then {found.escalated_share:.1%} of the answers are asked "
        f"again, and the language model takes {found.tokens:,.0f} tokens a sample."
    ]
    if len(own) < len(found.plans):
        rows = sum(plan.rows for plan in found.plans if not plan.own)
        lines.append(
            f"The others have too few rows ({rows:,} together) and get the common threshold: what that promises is of "
            "all rows, not of theirs."
        )
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
    if calibration.next_command is not None and not is_whole(calibration.options.job):
        lines.append("The command line lacks what may be a secret: put it back, or in the environment.")
    return lines


def _rounded(rows: int) -> int:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // step) * step


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.1%}"


def _right(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.1%}"


def _change(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
