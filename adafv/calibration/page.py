"""The calibration as one self-contained HTML file in the report's style. Text from data is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adafv.calibration import summary
from adafv.calibration.budgets import Budget
from adafv.calibration.calibration import Calibration
from adafv.calibration.cascades import Cascade, CascadeFamily
from adafv.calibration.demand import ACCURACY, AGREEMENT, LOSS
from adafv.reporting import charts
from adafv.scoring.bounds import Estimate

SHARES = 10  # steps from no second look to one for every row


def render(calibration: Calibration) -> str:
    """The page."""
    loader = ChoiceLoader([PackageLoader("adafv.calibration", "."), PackageLoader("adafv.reporting", ".")])
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("calibration.html")
    return template.render(
        headline=summary.headline(calibration),
        verdict=summary.verdict(calibration),
        command=calibration.next_command,
        charts=_charts(calibration, summary.by_strategy(calibration)),
        tables=summary.tables(calibration),
        changes=_changes(calibration),
    )


def _charts(calibration: Calibration, strategies: Sequence[tuple[str, Sequence[Budget]]]) -> list[tuple[str, Markup]]:
    """Agreement over cost, and accuracy over cost if known."""
    options, accuracy = calibration.options, calibration.accuracy
    levels: dict[str, float] = {calibration.demand.of: calibration.demand.least}
    agreement = _curves(
        calibration,
        strategies,
        lambda budget: budget.agreements[options.agreement],
        Estimate(1.0, 1.0, 1.0),
        lambda one: one.agreement,
        levels.get(AGREEMENT),
    )
    drawn = [(f"Agreement ({options.agreement}) over cost", agreement)]
    if accuracy is not None:
        level = levels.get(ACCURACY, accuracy.value + levels[LOSS] if LOSS in levels else None)
        right = _curves(
            calibration, strategies, lambda budget: budget.accuracy, accuracy, lambda one: one.accuracy, level
        )
        drawn.append((f"Accuracy ({options.metric}) over cost", right))
    return drawn


def _curves(
    calibration: Calibration,
    strategies: Sequence[tuple[str, Sequence[Budget]]],
    figure: Callable[[Budget], Estimate | None],
    unpruned: Estimate,
    figure_again: Callable[[Cascade], float | None],
    level: float | None,
) -> Markup:
    """Fixed budgets by `figure`, second looks by `figure_again`, and a line at the demand's `level`."""
    price = calibration.price
    unit, each = ("worker ms per sample", 1000) if price is None else ("USD per 1,000 samples", 1000 * price / 3600)
    lines = [("unpruned", [_point(each * calibration.unpruned, unpruned, "all")])]
    for name, budgets in strategies:
        figures = [(budget, found) for budget in budgets if (found := figure(budget)) is not None]
        lines.append((name, [_point(each * budget.seconds, found, f"{budget.keep:g}") for budget, found in figures]))
    for family in calibration.families:
        again = "again" if family.escalate == 1 else f"again at {family.escalate:g}"
        spread = [(one, figure_again(one), label) for one, label in _spread(family, calibration.cascade)]
        shown = [_point(each * one.seconds, Estimate(y, y, y), label) for one, y, label in spread if y is not None]
        lines.append((f"{family.strategy} {family.keep:g}, then {again}", shown))
    return charts.curves(lines, "quality over cost", unit, level)


def _spread(family: CascadeFamily, best: Cascade | None) -> list[tuple[Cascade, str]]:
    """Some of the cascades, evenly by the share asked again, up to the chosen one, with labels: only the best has
    one."""
    most = 1.0 if family.chosen is None else family.chosen.escalated_share
    found: dict[int, tuple[Cascade, str]] = {}
    for one in (each for each in family.cascades if each.escalated_share <= most):
        found.setdefault(round(SHARES * one.escalated_share), (one, ""))
    if family.chosen is not None:
        label = f"{most:.0%} again" if family.chosen is best else ""
        found[round(SHARES * most)] = family.chosen, label
    return [found[place] for place in sorted(found)]


def _point(x: float, estimate: Estimate, label: str) -> charts.Point:
    return charts.Point(x, estimate.value, estimate.low, estimate.high, label)


def _changes(calibration: Calibration) -> Budget | None:
    """The budget whose changed answers are shown: the recommended one, or the one that agrees most."""
    most = max(calibration.budgets, key=lambda budget: budget.demanded.value)
    found = calibration.recommended or most
    return found if found.changes else None
