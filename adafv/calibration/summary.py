"""The printed text: a table per strategy, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from adafv.calibration.answers import cost_per_1000
from adafv.calibration.budgets import Budget
from adafv.calibration.calibration import Calibration
from adafv.calibration.cascades import Cascade
from adafv.calibration.command import is_whole
from adafv.calibration.demand import ACCURACY, AGREEMENT, LOSS
from adafv.calibration.demand import share as _share
from adafv.calibration.verdict import UNDECIDED, judge, rows_needed
from adafv.pipeline.redaction import redact
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bounds import Estimate


def summary(calibration: Calibration) -> str:
    """The text."""
    aligned = [_aligned(title, [names, *cells]) for title, names, cells in tables(calibration)]
    command = calibration.next_command
    parts = ["\n".join(headline(calibration)), *aligned, "\n".join(verdict(calibration))]
    return "\n\n".join([*parts, *([f"next:\n{command}"] if command else [])])


Row = list[tuple[str, str]]  # column names and cells


def tables(calibration: Calibration) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, column names and rows of each table."""
    column, stratified = str(calibration.options.stratify), calibration.stratified
    found: list[tuple[str, list[Row]]] = [
        (strategy, [_budget(calibration, each) for each in (None, *budgets)])
        for strategy, budgets in by_strategy(calibration)
    ]
    chosen = [each.chosen for each in calibration.families if each.chosen is not None]
    found.append(("second looks", [_cascade(calibration, each) for each in chosen]))
    strata = [
        [
            (column, plan.stratum),
            ("rows", f"{plan.rows:,}"),
            *_cascade(calibration, plan.cascade, plan.own),
            ("", "" if plan.own else "the common threshold"),
        ]
        for plan in ([] if stratified is None else stratified.plans)
    ]
    found.append(("second looks by stratum", strata))
    return [
        (title, [name for name, _ in rows[0]], [[cell for _, cell in row] for row in rows])
        for title, rows in found
        if rows
    ]


def _budget(calibration: Calibration, budget: Budget | None) -> Row:
    """A budget's row; the unpruned model's for None."""
    options, price = calibration.options, calibration.price
    accuracy, seconds = calibration.accuracy, calibration.unpruned
    agreements: dict[str, str] = dict.fromkeys(AGREEMENTS, "")
    interval = judged = change = ""
    if budget is not None:
        accuracy, seconds, change = budget.accuracy, budget.seconds, _change(budget.difference)
        agreements = {name: _share(each.value) for name, each in budget.agreements.items()}
        low, high = budget.agreements[options.agreement].low, budget.agreements[options.agreement].high
        interval, judged = f"{_share(low)} - {_share(high)}", judge(budget, calibration.demand)
    row = [
        ("kept", "all" if budget is None else f"{budget.keep:g}"),
        (options.agreement, agreements.pop(options.agreement)),
        ("95 % interval", interval),
        ("", judged),
        *agreements.items(),
    ]
    if options.answer_column is not None:
        row += [("accuracy", "" if accuracy is None else f"{accuracy.value:.1%}"), ("to unpruned", change)]
    row += [("ms", f"{1000 * seconds:,.1f}"), ("samples/s", f"{1 / seconds:,.1f}")]
    return row if price is None else [*row, ("USD/1,000", _usd(cost_per_1000(seconds, price)))]


def _cascade(calibration: Calibration, found: Cascade, promised: bool = True) -> Row:
    """The row of a cascade; without its lower bound unless that is `promised`."""
    options, price = calibration.options, calibration.price
    low = {AGREEMENT: "at least", ACCURACY: "accuracy at least", LOSS: "to unpruned at least"}[calibration.demand.of]
    row = [
        ("kept", f"{found.strategy} {found.keep:g}" if len(options.strategies) > 1 else f"{found.keep:g}"),
        ("then", "all" if found.escalate == 1 else f"{found.escalate:g}"),
        ("below", f"{found.threshold:g}"),
        ("asked again", f"{found.escalated_share:.1%}"),
        (options.agreement, _share(found.agreement)),
    ]
    if options.answer_column is not None:
        row.append(("accuracy", "" if found.accuracy is None else f"{found.accuracy:.1%}"))
    row += [(low, _share(found.low) if promised else ""), ("tokens", f"{found.tokens:,.1f}")]
    row.append(("ms", f"{1000 * found.seconds:,.1f}"))
    return row if price is None else [*row, ("USD/1,000", _usd(cost_per_1000(found.seconds, price)))]


def by_strategy(calibration: Calibration) -> list[tuple[str, list[Budget]]]:
    """The budgets of each strategy."""
    names = dict.fromkeys(budget.strategy for budget in calibration.budgets)
    return [(name, [budget for budget in calibration.budgets if budget.strategy == name]) for name in names]


def headline(calibration: Calibration) -> list[str]:
    """What was compared."""
    options = calibration.options
    lines = [
        f"{calibration.drawn:,} rows drawn from {redact(', '.join(options.job.input))}: {calibration.labelled:,} "
        f"labelled unpruned, {calibration.images:,} images",
        f"target: {calibration.demand}",
    ]
    if calibration.drawn < (options.job.sample or 0):
        lines.append(f"the input has no more rows for --sample {options.job.sample:,}")
    return lines


def _usd(value: float) -> str:
    return f"{value:,.4f}" if value >= 0.1 else f"{value:.3g}"


def _aligned(title: str, table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([title, *(f"  {line.rstrip()}" for line in lines)])


def verdict(calibration: Calibration) -> list[str]:
    """What follows from the figures, and what doesn't."""
    return [
        *_recommendation(calibration),
        *_undecided(calibration),
        *_second_looks(calibration),
        *_by_stratum(calibration),
        *_left_out(calibration),
        "ms: a worker's time per sample (gpu_seconds of the labels), without each worker's first batch. `adafv report` "
        "adds start-up and idle time.",
    ]


def _recommendation(calibration: Calibration) -> list[str]:
    found, demand = calibration.recommended, calibration.demand
    if found is not None:
        lines = [
            f"Recommended: {found.strategy} with --keep {found.keep:g}, the cheapest that meets the target. "
            f"{demand.promise(found.demanded.low)}."
        ]
        saved = 1 - found.seconds / calibration.unpruned
        if saved > 0:
            return [*lines, f"It takes {saved:.0%} less of a worker's time per sample than the unpruned model."]
        return [*lines, "But as measured here, it takes no less of a worker's time than the unpruned model."]
    if calibration.cascade is not None and calibration.cascade.tokens < calibration.unpruned_tokens:
        return ["No fixed budget is shown to meet the target."]
    if calibration.is_too_small:
        needed, best = demand.fewest_rows(), max(budget.best.low for budget in calibration.budgets)
        rows = "" if needed is None else f" You need at least {needed:,} rows, each on its own image."
        return [
            f"The sample is too small to decide: even if all its answers agreed, it would show only {_share(best)} or "
            f"more, and the target is {demand.least:g}.{rows} Give a larger --sample, or a lower target."
        ]
    return [
        "No budget is shown to meet the target, so none is recommended. Label unpruned (--strategy none), or try a "
        "larger --keep or a lower target."
    ]


def _undecided(calibration: Calibration) -> list[str]:
    """Budgets cheaper than the recommended one that might meet the demand."""
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
            "it misses the target in this sample, but may meet it in the data"
            if rows is None
            else f"a --sample of about {_rounded(rows):,} may show it"
        )
        lines.append(f"Undecided: whether {budget.strategy} with --keep {budget.keep:g} meets the target; {more}.")
    return lines


def _second_looks(calibration: Calibration) -> list[str]:
    """What the cheapest cascade promises and costs, compared with the unpruned model and fixed budgets."""
    found, whole, fixed = calibration.cascade, calibration.unpruned_tokens, calibration.recommended
    if found is None:
        return ["No threshold for second looks is shown to meet the target."] if calibration.families else []
    tokens = "all tokens" if found.escalate == 1 else f"{found.escalate:g} of the tokens"
    promise, pairs = calibration.demand.promise(found.low), len(calibration.families)
    lines = [
        f"With second looks: {found.strategy} with --keep {found.keep:g}, asking the least sure "
        f"{found.escalated_share:.1%} again with {tokens}. {promise}, with 95 % confidence, even after choosing among "
        f"{pairs} pairs of keep ratios."
    ]
    if found.tokens >= whole:
        return [
            *lines,
            f"But then the language model takes {found.tokens:,.0f} tokens per sample, unpruned {whole:,.0f}.",
        ]
    beside = ""
    if fixed is not None:
        beside = f" and {fixed.tokens:,.0f} with the cheapest fixed budget that meets the target"
    return [
        *lines,
        f"The language model takes {found.tokens:,.0f} tokens per sample, {1 - found.tokens / whole:.0%} less than the "
        f"{whole:,.0f} unpruned{beside}. A worker takes {1000 * found.seconds:,.1f} ms, unpruned "
        f"{1000 * calibration.unpruned:,.1f} ms.",
    ]


def _by_stratum(calibration: Calibration) -> list[str]:
    """What thresholds by stratum promise and cost, and which strata have none of their own."""
    column, found = calibration.options.stratify, calibration.stratified
    if column is None:
        return []
    if found is None:
        return [
            f"No {column} has its own threshold: each has too few rows, or isn't shown to meet the target. A larger "
            "--sample may help."
        ]
    own = [plan for plan in found.plans if plan.own]
    lines = [
        f"By {column}: {len(own)} of {len(found.plans)} have their own threshold, and the target holds in all of these "
        f"at once, with 95 % confidence. Then {found.escalated_share:.1%} of the answers are asked again, and the "
        f"language model takes {found.tokens:,.0f} tokens per sample."
    ]
    if len(own) < len(found.plans):
        rows = sum(plan.rows for plan in found.plans if not plan.own)
        lines.append(
            f"The others ({rows:,} rows together) have too few rows, or aren't shown to meet the target. They get the "
            "common threshold, whose promise covers all rows together, not theirs alone."
        )
    return lines


def _left_out(calibration: Calibration) -> list[str]:
    """Rows that could not be compared, and what the command line lacks."""
    lines = []
    most = max(calibration.budgets, key=lambda budget: budget.left_out)
    if most.left_out:
        lines.append(
            f"Left out because they were rejected, unpruned or pruned: up to {most.left_out:,} rows (see "
            f"{redact(most.candidate.job.output)}/rejects)."
        )
    unanswered = max(budget.compared - budget.answered for budget in calibration.budgets)
    if calibration.options.answer_column is not None and unanswered:
        lines.append(f"Accuracy leaves out {unanswered:,} rows without a right answer.")
    if calibration.next_command is not None and not is_whole(calibration.options.job):
        lines.append("The command leaves out what may be a secret: add it, or set it in the environment.")
    return lines


def _rounded(rows: int) -> int:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // step) * step


def _change(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
