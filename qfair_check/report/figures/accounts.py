"""The second-order account as a heatmap: which layer costs which group how much of its loss."""

from collections.abc import Sequence
from math import floor, fsum, log10

from qfair_check.judge.text import printable, shown_middle, shown_name
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.figures.canvas import LINE, SMALL, WIDTH, Canvas, painted, text_width
from qfair_check.report.figures.exhibit import Absent, Drawing, Exhibit, Table
from qfair_check.report.figures.palette import COLD, HOT
from qfair_check.report.figures.scatter import key_lines, numbered_names, paint_key
from qfair_check.report.figures.values import (
    NO_CURVATURE,
    NOT_DEFINED,
    Quantity,
    Value,
    drawn_groups,
    drawn_note,
    results_of,
    table_names,
    undefined_notes,
)
from qfair_check.report.table import shown_apart

MOST_LAYERS = 12
_CELL = 24
_NAME = 28
_WIDEST = 64
_STRONGEST = 0.6


def account_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "account") -> Exhibit | Absent:
    """Return for each quantized precision what each layer costs each group, to second order."""
    title, source = "Which layer hurts which group", "eq. (4)"
    results = [result for result in results_of(audit, precisions) if result.curvature and result.moved]
    if audit.settings.curvature is None:
        return Absent(title, source, NO_CURVATURE)
    if not results:
        return Absent(title, source, "no weights are quantized at these precisions, so no layer costs anything")
    quantity = _predictions(results)
    if quantity.why_nothing:
        return Absent(title, source, f"no group has an account: {quantity.why_nothing}")
    return Exhibit(
        key,
        title,
        source,
        "Each cell is what quantizing one layer adds to the loss of one group, predicted to second order from gradient "
        "and Hessian at fp32; a cell that stands out in its row is a group that pays more for this layer than others.",
        (
            "The prediction holds where it is near the measured change of the loss, the last row of each picture.",
            *_layer_notes(results),
            *drawn_note(audit),
            *undefined_notes(audit, [quantity]),
        ),
        tuple(_drawing(audit, result, f"{key}-{result.precision}") for result in results if _is_told(result)),
        _table(audit, results),
    )


def costliest(result: PrecisionResult) -> list[int]:
    """Return the positions of the 12 tensors that change some group's predicted loss most, in the model's order."""
    parts = [group.account.by_tensor for group in result.curvature if group.account is not None]
    size = [max((abs(part[index]) for part in parts), default=0.0) for index in range(len(result.moved))]
    return sorted(sorted(range(len(size)), key=size.__getitem__, reverse=True)[:MOST_LAYERS])


def _is_told(result: PrecisionResult) -> bool:
    return any(group.account is not None for group in result.curvature)


def _predictions(results: Sequence[PrecisionResult]) -> Quantity:
    return Quantity(
        "the account",
        {
            result.precision: tuple(
                Value(group.account.predicted)
                if group.account is not None
                else Value(None, group.undefined.get("account", "the audit gives no reason"))
                for group in result.curvature
            )
            for result in results
        },
    )


def _layer_notes(results: Sequence[PrecisionResult]) -> tuple[str, ...]:
    more = {result.precision: len(result.moved) - MOST_LAYERS for result in results if len(result.moved) > MOST_LAYERS}
    if not more:
        return ()
    told = ", ".join(f"{count} more at {precision}" for precision, count in more.items())
    return (f"Only the {MOST_LAYERS} costliest tensors are shown; the table adds up the others ({told}).",)


def _drawing(audit: Audit, result: PrecisionResult, prefix: str) -> Drawing:
    groups, tensors = drawn_groups(audit), costliest(result)
    names = [
        *shown_apart([result.moved[index].removesuffix(".weight") for index in tensors], _NAME),
        "predicted",
        "measured",
    ]
    accounts = [result.curvature[index].account for index in groups]
    columns = [
        [*(account.by_tensor[index] for index in tensors), account.predicted, account.measured] if account else None
        for account in accounts
    ]
    strongest = max((abs(value) for column in columns if column for value in column[:-2]), default=0.0)
    largest = max((abs(value) for column in columns if column for value in column), default=0.0)
    exponent = _exponent(largest)
    unit = f" (in units of 1e{exponent} nats)" if exponent else " (nats)"
    gutter = max(map(text_width, names)) + 12
    width = min(_WIDEST, (WIDTH - gutter) / len(groups))
    top = 2 * LINE + 10
    bottom = top + _CELL * len(names) + 6
    key = numbered_names(audit, [group.samples for group in result.curvature])

    def paint(canvas: Canvas) -> None:
        canvas.text(0, 10, f"{result.precision}: change of the loss{unit}", bold=True)
        for row, name in enumerate(names):
            canvas.text(gutter - 8, _row_middle(top, row, len(tensors)), name, "right", muted=row >= len(tensors))
        for place, column in enumerate(columns):
            x = gutter + width * place
            canvas.text(x + width / 2, top - 12, str(place + 1), "center", size=SMALL, bold=True)
            for row in range(len(names)):
                y = _row_middle(top, row, len(tensors))
                value = None if column is None else column[row]
                if value is not None and row < len(tensors) and strongest:
                    colour, alpha = HOT if value > 0 else COLD, _STRONGEST * abs(value) / strongest
                    canvas.box((x + 1, y - _CELL / 2 + 1, width - 2, _CELL - 2), colour, alpha=alpha)
                text = "–" if value is None else _cell(value, exponent)
                canvas.text(x + width / 2, y, text, "center", size=SMALL if width > 42 else 10)
        paint_key(canvas, key, bottom + LINE, "columns: groups")

    return Drawing(painted(bottom + LINE * (key_lines(key) + 1), prefix, paint), _alt(audit, result))


def _row_middle(top: float, row: int, tensors: int) -> float:
    return top + _CELL * (row + 0.5) + (6 if row >= tensors else 0)


def _exponent(largest: float) -> int:
    """Return the power of ten that cells are in units of: 0 where the largest is from 0.1 to 999."""
    if not largest:
        return 0
    power = floor(log10(largest))
    return 0 if -1 <= power < 3 else power


def _cell(value: float, exponent: int) -> str:
    scaled = value / 10.0**exponent
    text = f"{scaled:.0f}" if abs(scaled) >= 99.5 else f"{scaled:.1f}" if abs(scaled) >= 9.95 else f"{scaled:.2f}"
    return (text if float(text) else text.removeprefix("-")).replace("-", "−")


def _alt(audit: Audit, result: PrecisionResult) -> str:
    costs = {
        (cost, index, tensor)
        for index, group in enumerate(result.curvature)
        if group.account is not None
        for tensor, cost in enumerate(group.account.by_tensor)
    }
    cost, index, tensor = max(costs)
    return (
        f"Heatmap of layers and groups at {result.precision}: the largest cost is {cost:.3g}, of "
        f"{printable(result.moved[tensor])} to {shown_name(audit.groups[index])}."
    )


def _table(audit: Audit, results: Sequence[PrecisionResult]) -> Table:
    rows = []
    names = table_names(audit)
    for result in results:
        shown = costliest(result)
        others = [index for index in range(len(result.moved)) if index not in shown]
        for name, group in zip(names, result.curvature, strict=True):
            start = [name, f"{group.samples:,}", result.precision]
            account = group.account
            if account is None:
                rows.append([*start, "all", NOT_DEFINED, NOT_DEFINED, NOT_DEFINED])
                continue
            first, second = account.first_order, account.second_order
            parts = [(shown_middle(result.moved[index], 60), first[index], second[index]) for index in shown]
            if others:
                sums = [fsum(part[index] for index in others) for part in (first, second)]
                parts.append((f"{len(others)} others", sums[0], sums[1]))
            parts.append(("predicted, all", fsum(first), fsum(second)))
            rows += [[*start, tensor, f"{g:.4g}", f"{h:.4g}", f"{g + h:.4g}"] for tensor, g, h in parts]
            rows.append([*start, "measured", "", "", f"{account.measured:.4g}"])
    return Table(["group", "n", "precision", "layer", "gradient part", "Hessian part", "change of the loss"], rows)
