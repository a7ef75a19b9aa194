"""What the grid did to the weights: difference and sparsity by precision, and how the weights are distributed."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from qfair_check.judge.text import compact, shown_middle
from qfair_check.record import Audit, Histogram, PrecisionResult
from qfair_check.report.figures.canvas import LINE, SMALL, WIDTH, Canvas, painted, text_width
from qfair_check.report.figures.exhibit import Absent, Drawing, Exhibit, Table
from qfair_check.report.figures.palette import INK, MARKS
from qfair_check.report.figures.scales import set_scale

_ROW, _TOP, _AXIS = 26, 26, 8
_BETWEEN = 40
_CALLABLE = "a plain callable does not show its weights; audit the model itself: a file, or a torch.nn.Module"
_NONE_QUANTIZED = "no weights of this model are quantized; leave out --qfair-exclude"
_COLUMNS = 3
_PANEL, _PANEL_TITLE, _PANEL_AXIS = 120, 22, 24
_FLOOR = 0.5
_NOTHING = "not defined"
_NOT_ITS_BIN = "-"


def weight_change_exhibit(audit: Audit, key: str = "weight-change") -> Exhibit | Absent:
    """Return weight difference and sparsity by precision; absent if no weights are quantized."""
    title, source = "Weight difference and sparsity by precision", "Fig. 3"
    if not any(result.weights.elements for result in audit.precisions):
        return Absent(title, source, _why_none(audit))
    last = audit.precisions[-1]
    rows = [
        [
            result.precision,
            f"{result.weights.elements:,}",
            _difference(result),
            f"{result.weights.zeros:,}",
            _share(result.weights.sparsity),
        ]
        for result in audit.precisions
    ]
    layers = [
        [
            f"{result.precision}: {shown_middle(layer.name, 60)}",
            f"{layer.elements:,}",
            _NOTHING if layer.weight_difference is None else f"{layer.weight_difference:.4g}",
            f"{layer.zeros:,}",
            _share(layer.sparsity),
        ]
        for result in audit.quantized
        for layer in result.weights.layers
    ]
    moved = last.weights.weight_difference
    differ = "are not known to differ from fp32" if moved is None else f"differ from fp32 by {compact(moved)} in all"
    zeros = _share(last.weights.sparsity)
    alt = f"Bars by precision: at {last.precision} the weights {differ}, and {zeros} of them are 0."
    return Exhibit(
        key,
        title,
        source,
        "The longer the bars, the further quantization moved the weights from those that were trained, and the more of "
        "them it made exactly zero; this is where everything below begins.",
        (),
        (Drawing(_change_svg(audit, key), alt),),
        Table(["precision", "weights", "sum of |difference|", "zeros", "sparsity"], [*rows, *layers]),
    )


def _change_svg(audit: Audit, key: str) -> str:
    results = audit.precisions
    height = _TOP + _ROW * len(results) + _AXIS
    gutter = max(text_width(result.precision) for result in results) + 10
    differences = [result.weights.weight_difference if result.weights.elements else None for result in results]
    shares = [result.weights.sparsity for result in results]

    def paint(canvas: Canvas) -> None:
        for place, result in enumerate(results):
            canvas.text(gutter - 8, _TOP + _ROW * (place + 0.5), result.precision, "right")
        width = (WIDTH - gutter - _BETWEEN) / 2
        columns: list[tuple[str, list[float | None], list[str], float | None]] = [
            (
                "absolute weight difference (sum)",
                differences,
                [_NOTHING if value is None else compact(value) for value in differences],
                None,
            ),
            ("sparsity (share of weights that are 0)", shares, [_share(value) for value in shares], 1.0),
        ]
        for number, (name, values, texts, most) in enumerate(columns):
            left = gutter + number * (width + _BETWEEN)
            room = width - max(map(text_width, texts)) - 8
            longest = most or max((value or 0 for value in values), default=0) or 1
            canvas.text(left, 10, name)
            canvas.plot([left, left], [_TOP, height - _AXIS], color=INK, alpha=0.4, linewidth=0.8)
            for place, (result, value, text) in enumerate(zip(results, values, texts, strict=True)):
                y, end = _TOP + _ROW * (place + 0.5), room * (value or 0) / longest
                canvas.box((left, y - 7.5, end, 15), MARKS[result.precision].colour)
                canvas.text(left + end + 6, y, text, size=SMALL)

    return painted(height, key, paint)


def weight_distribution_exhibit(audit: Audit, key: str = "weight-distribution") -> Exhibit | Absent:
    """Return the histogram of the weights at each precision; absent if no weights are quantized."""
    title, source = "Weight distributions", "Fig. 4"
    if not any(sum(result.weights.histogram.counts) for result in audit.precisions):
        return Absent(title, source, _why_none(audit))
    layers = audit.precisions[-1].weights.layers
    levels = max((layer.levels for layer in layers), default=0)
    whose = "a channel" if any(len(layer.scale) > 1 for layer in layers) else "a layer"
    alt = f"Histogram of the weights at {', '.join(result.precision for result in audit.precisions)}."
    if levels:
        alt += f" At {audit.precisions[-1].precision} {whose} has at most {levels} distinct values."
    return Exhibit(
        key,
        title,
        source,
        "Fewer and taller bars mean that many weights share one value: compare each panel with fp32 to see what shape "
        "is lost.",
        (
            "Counts are on a logarithmic scale, so that rare large weights show beside the many near zero; the table "
            "leaves out bins that hold no weight at any precision.",
        ),
        (Drawing(_distribution_svg(audit.precisions, key), alt),),
        _distribution_table(audit.precisions),
    )


def _distribution_svg(results: Sequence[PrecisionResult], key: str) -> str:
    lines = -(-len(results) // _COLUMNS)
    row = _PANEL_TITLE + _PANEL + _PANEL_AXIS
    left, between = 46.0, 16.0
    width = (WIDTH - left - 8 - between * (_COLUMNS - 1)) / _COLUMNS
    low = min(result.weights.histogram.low for result in results)
    high = max(result.weights.histogram.high for result in results)
    most = max(max(result.weights.histogram.counts, default=0) for result in results)

    def paint(canvas: Canvas) -> None:
        for place, result in enumerate(results):
            down, right = divmod(place, _COLUMNS)
            x, y = left + right * (width + between), down * row + _PANEL_TITLE
            canvas.text(x, y - 11, result.precision, bold=True)
            axes = canvas.axes((x, y, width, _PANEL))
            set_scale(axes.yaxis, (_FLOOR, max(most * 1.6, 10)), log=True, most=4)
            set_scale(axes.xaxis, (low, high) if high > low else (low - 1, high + 1), log=False, most=4)
            if right:
                axes.set_yticklabels([])
            if place + _COLUMNS < len(results):
                axes.set_xticklabels([])
            histogram = result.weights.histogram
            heights = np.maximum(histogram.counts, _FLOOR)
            mark = MARKS[result.precision]
            axes.stairs(heights, _edges(histogram), baseline=_FLOOR, fill=True, color=mark.colour, alpha=0.85)
        canvas.text(left + (WIDTH - left) / 2, lines * row + 6, "weight; bars: how many weights (log scale)", "center")

    return painted(lines * row + LINE, key, paint)


def _distribution_table(results: Sequence[PrecisionResult]) -> Table:
    by_bin: dict[tuple[float, float], dict[str, int]] = {}
    for result in results:
        histogram = result.weights.histogram
        for (low, high), count in zip(pairwise(_edges(histogram).tolist()), histogram.counts, strict=True):
            by_bin.setdefault((low, high), {})[result.precision] = count
    rows = [
        [f"{low:.4g} to {high:.4g}", *(str(counts.get(result.precision, _NOT_ITS_BIN)) for result in results)]
        for (low, high), counts in sorted(by_bin.items())
        if any(counts.values())
    ]
    return Table(["weight", *(result.precision for result in results)], rows)


def _edges(histogram: Histogram) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)


def _why_none(audit: Audit) -> str:
    return _CALLABLE if audit.model.sha256 is None else _NONE_QUANTIZED


def _difference(result: PrecisionResult) -> str:
    moved = result.weights.weight_difference if result.weights.elements else None
    return _NOTHING if moved is None else f"{moved:.4g}"


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1%}"
