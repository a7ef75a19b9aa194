"""What each precision did to every layer, as tables for a terminal."""

from collections.abc import Sequence

from wcwidth import wcswidth

from qfair_check.judge.text import printable
from qfair_check.record import Audit, LayerWeights, PrecisionResult
from qfair_check.report.table import aligned, shown_apart, wrapped

_HEAD = ("layer", "shape", "bits", "rule", "scale", "sparsity", "clipped", "levels", "difference")
_RIGHT = (2, 5, 6, 7, 8)
_LEAST_NAME = 14
_NOTHING = "-"
_THOUSANDS = 10_000
_LEGEND = (
    "sparsity: share of weights that are exactly 0; clipped: share beyond the ends of the grid; levels: codes in "
    "use, in the channel with the most; difference: sum of |w~ - w|; a scale for each channel is told as "
    "least…largest (channels)"
)


def render_layers(audit: Audit, results: Sequence[PrecisionResult], *, width: int = 80) -> str:
    """Return a table for each precision: one row for each quantized weight, and their total.

    Names lose the end ``.weight``, and their middle where the table would be too wide.

    Parameters
    ----------
    audit : Audit
    results : sequence of PrecisionResult
        Precisions of this audit.
    width : int
        Terminal columns.
    """
    lines = wrapped(preamble(audit), width)
    for result in results:
        lines += ["", result.precision, *_table(result, width)]
    excluded = ", ".join(map(printable, audit.model.excluded))
    notes = [f"excluded, at fp32: {excluded}"] if excluded else []
    return "\n".join([*lines, "", *wrapped([*notes, _LEGEND], width)]) + "\n"


def preamble(audit: Audit) -> list[str]:
    """Return lines on the model and how it was quantized."""
    allocation = f"; layers: {printable(audit.settings.allocation)}" if audit.settings.allocation else ""
    return [
        f"model   {printable(audit.inputs.model)}, {audit.model.parameters:,} parameters, "
        f"{audit.model.quantized_share:.1%} of them quantized",
        f"scheme  {printable(audit.settings.scheme)}{allocation}",
    ]


def _table(result: PrecisionResult, width: int) -> list[str]:
    layers = result.weights.layers
    if not layers:
        return ["no weights are quantized"]
    rows = [["", *_HEAD[1:]], *(["", *_cells(layer)] for layer in layers), ["", *_total(result)]]
    room = max(width - wcswidth(aligned(rows)[0]), _LEAST_NAME)
    names = [_HEAD[0], *shown_apart([layer.name.removesuffix(".weight") for layer in layers], room), "total"]
    return aligned([[name, *row[1:]] for name, row in zip(names, rows, strict=True)], _RIGHT)


def _cells(layer: LayerWeights) -> list[str]:
    return [
        "x".join(map(str, layer.shape)),
        str(layer.bits),
        printable(layer.rule),
        _scale(layer.scale),
        _share(layer.sparsity),
        _share(layer.clipped_share),
        str(layer.levels) if layer.scale else _NOTHING,
        _difference(layer.weight_difference),
    ]


def _total(result: PrecisionResult) -> list[str]:
    weights = result.weights
    clipped = sum(layer.clipped for layer in weights.layers)
    return [
        f"{weights.elements:,}",
        "",
        "",
        "",
        _share(weights.sparsity),
        _share(clipped / weights.elements if weights.elements else None),
        "",
        _difference(weights.weight_difference),
    ]


def _scale(scale: Sequence[float]) -> str:
    if not scale:
        return _NOTHING
    if len(scale) == 1:
        return f"{scale[0]:.3g}"
    return f"{min(scale):.3g}…{max(scale):.3g} ({len(scale)})"


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1%}"


def _difference(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.4g}" if value < _THOUSANDS else f"{value:,.0f}"
