"""The best models: overall accuracy against FVO, with the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import dist

from qfair_check.gaps import exact_fvo
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE
from qfair_check.judge.pareto import Standing, candidates_of, standings
from qfair_check.judge.statistics import wilson_interval
from qfair_check.judge.text import printable, shown_name
from qfair_check.judge.verdicts import Outcome
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.figures.canvas import (
    LINE,
    SMALL,
    WIDTH,
    Canvas,
    legend_lines,
    painted,
    points,
    shown_names,
    text_width,
)
from qfair_check.report.figures.exhibit import Drawing, Exhibit, Table
from qfair_check.report.figures.labels import Point, paint_labels, placed
from qfair_check.report.figures.palette import INK, MARKS, Mark, audit_mark
from qfair_check.report.figures.scales import limits, set_scale

TITLE, SOURCE = "Overall accuracy against FVO, and the Pareto front", "Fig. 12"
_HEIGHT = 340
_LEFT, _AXIS = 74, 46
_SAME = 7
_HOLLOW = {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 12}
_WORDS = {Outcome.PASS: "yes", Outcome.FAIL: "no", Outcome.INSUFFICIENT: "unsure"}


@dataclass(frozen=True, slots=True)
class _Point:
    audit: int
    result: PrecisionResult
    accuracy: Fraction | None
    fvo: Fraction | None
    standing: Standing | None  # None for fp32, which is the baseline

    @property
    def place(self) -> tuple[float, float] | None:
        return None if self.accuracy is None or self.fvo is None else (float(self.fvo), float(self.accuracy))


def front_exhibit(
    names: Sequence[str],
    audits: Sequence[Audit],
    key: str = "front",
    *,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
) -> Exhibit:
    """Return overall accuracy against FVO for every precision of every audit, with the Pareto front.

    Parameters
    ----------
    names : sequence of str
        What the page calls the audits; distinct.
    audits : sequence of Audit
        Of the same groups, each with a quantized precision.
    key : str
        Distinct within a page: ids begin with it.
    min_group_size : int
        Samples that a group needs for the accuracies to tell who is on the front.

    Raises
    ------
    InputError
        If the audits are not of the same groups with as many samples each.
    OptionError
        If one of them holds fp32 only.
    """
    found = _points(audits, standings(candidates_of(audits, names, min_group_size=min_group_size)))
    front = [point for point in found if point.standing is not None and point.standing.outcome is Outcome.PASS]
    drawn = [point for point in found if point.place is not None]
    alt = f"Scatter plot; on the Pareto front: {', '.join(_name(point, names) for point in front) or 'none'}."
    return Exhibit(
        key,
        TITLE,
        SOURCE,
        "Up is more accurate, left is fairer (FVO is the largest gap in accuracy between two groups); on the line are "
        "the candidates that no other beats in both.",
        _notes(found, names),
        (Drawing(_svg(names, drawn, front, key), alt),) if drawn else (),
        Table(
            [*(["audit"] if len(names) > 1 else []), "precision", "n", "overall accuracy", "FVO", "on the front"],
            [_row(point, names) for point in found],
        ),
    )


def _points(audits: Sequence[Audit], told: Sequence[Standing]) -> list[_Point]:
    by_place = {(standing.candidate.audit, standing.candidate.precision): standing for standing in told}
    return [
        _Point(
            index,
            result,
            result.overall.exact_accuracy,
            exact_fvo(result.groups),
            by_place.get((index, result.precision)),
        )
        for index, audit in enumerate(audits)
        for result in audit.precisions
    ]


def _name(point: _Point, names: Sequence[str]) -> str:
    precision = point.result.precision
    return precision if len(names) == 1 else f"{precision} of {shown_name(names[point.audit])}"


def _notes(found: Sequence[_Point], names: Sequence[str]) -> tuple[str, ...]:
    notes = ["fp32 is the baseline and no candidate: it is never on the front."]
    for point in found:
        reasons = point.standing.candidate.reasons if point.standing else ()
        if point.place is None:
            why = reasons or tuple(point.result.undefined.values()) or ("a group has no accuracy",)
            notes.append(f"Not drawn: {_name(point, names)}: {printable(why[0])}.")
        elif reasons:
            notes.append(f"{_name(point, names)} cannot be judged: {printable(reasons[0])}.")
    return tuple(notes)


def _row(point: _Point, names: Sequence[str]) -> list[str]:
    overall = point.result.overall
    accuracy = "not defined"
    if point.accuracy is not None and overall.correct is not None:
        low, high = wilson_interval(overall.correct, overall.samples)
        accuracy = f"{float(point.accuracy):.4f} [{low:.3f}, {high:.3f}]"
    return [
        *([printable(names[point.audit])] if len(names) > 1 else []),
        point.result.precision,
        f"{overall.samples:,}",
        accuracy,
        "not defined" if point.fvo is None else f"{float(point.fvo):.4f}",
        "baseline" if point.standing is None else _WORDS[point.standing.outcome],
    ]


def _mark(point: _Point, several: bool) -> Mark:
    return audit_mark(point.audit) if several else MARKS[point.result.precision]


def _svg(names: Sequence[str], drawn: Sequence[_Point], front: Sequence[_Point], key: str) -> str:
    several = len(names) > 1
    shown = shown_names(names, 300) if several else []
    top = LINE * (legend_lines(shown) if several else 0) + LINE + 12
    places = [point.place or (0.0, 0.0) for point in drawn]

    def paint(canvas: Canvas) -> None:
        if several:
            canvas.legend([(name, audit_mark(index)) for index, name in enumerate(shown)], LINE / 2)
        _paint_key(canvas, top - LINE - 4 + LINE / 2, several)
        axes = canvas.axes((_LEFT, top, WIDTH - _LEFT - 12, _HEIGHT))
        set_scale(axes.xaxis, limits([x for x, _ in places], log=False, margin=0.09), log=False, most=7)
        set_scale(axes.yaxis, limits([y for _, y in places], log=False, margin=0.09), log=False, most=6)
        steps: list[tuple[float, float]] = []
        stairs = sorted({point.place for point in front if point.place is not None})
        if stairs:
            xs, ys = zip(*stairs, strict=True)
            ends = (*axes.get_ylim(), *axes.get_xlim())
            steps = [(xs[0], ends[0])]
            for x, y in [*stairs, (ends[3], ys[-1])]:
                steps += [(x, steps[-1][1]), (x, y)]
            axes.plot(*zip(*steps, strict=True), color=INK, alpha=0.5, linewidth=1.3)
        for is_baseline in (False, True):
            for point, (x, y) in zip(drawn, places, strict=True):
                if (point.standing is None) is is_baseline:
                    axes.plot([x], [y], **points(_mark(point, several), 9) | (_HOLLOW if is_baseline else {}))
        at = canvas.pixels(axes, places)
        corners = canvas.pixels(axes, steps)
        obstacles = [*at, *(spot for one, other in pairwise(corners) for spot in _between(one, other))]
        box = (_LEFT, top, WIDTH - 12, top + _HEIGHT)
        paint_labels(canvas, placed(_labels(drawn, at), obstacles, box, SMALL, 8), size=SMALL, bold=False)
        canvas.upright(12, top + _HEIGHT / 2, "overall accuracy")
        canvas.text(_LEFT + (WIDTH - _LEFT) / 2, top + _HEIGHT + 34, "FVO", "center")

    return painted(top + _HEIGHT + _AXIS, key, paint)


def _paint_key(canvas: Canvas, y: float, several: bool) -> None:
    canvas.plot([1, 29], [y, y], color=INK, alpha=0.5, linewidth=1.3)
    canvas.text(36, y, "Pareto front", size=SMALL)
    x = 36 + text_width("Pareto front", SMALL) + 24
    canvas.plot([x], [y], **points(MARKS["fp32"], 9) | _HOLLOW)
    canvas.text(x + 12, y, "hollow: fp32, the baseline", size=SMALL)


def _between(one: Point, other: Point) -> list[Point]:
    """Return points on the line from one to the other, a label's height apart."""
    count = max(1, int(dist(one, other) / _SAME))
    shares = [step / count for step in range(count)]
    return [(one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share) for share in shares]


def _labels(drawn: Sequence[_Point], at: Sequence[Point]) -> list[tuple[str, Point]]:
    """Return a label for each point, or one for those at the same place."""
    joined: list[tuple[list[str], Point]] = []
    for point, place in zip(drawn, at, strict=True):
        near = next((texts for texts, other in joined if dist(place, other) < _SAME), None)
        if near is None:
            joined.append(([point.result.precision], place))
        elif point.result.precision not in near:
            near.append(point.result.precision)
    return [(", ".join(texts), place) for texts, place in joined]
