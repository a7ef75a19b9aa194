"""Why quantization hurts a group: the change of its loss to second order, layer by layer, as tables for a terminal."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import floor, fsum, log10

from qfair_check.curvature_record import Account
from qfair_check.judge.text import compact, printable, shown_name
from qfair_check.precision import Precision
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.curvature import on_samples, undefined_notes
from qfair_check.report.layers import preamble
from qfair_check.report.table import NAME_WIDTH, Cell, aligned, in_blocks, right_aligned, shown_apart, wrapped

_MOST_GROUPS = 10
_MOST_LAYERS = 10
_MOST_BROKEN = 3
_GROUP_WIDTH = 16
_LEAST_NAME = 24
_NEGLIGIBLE = 1e-4
_NEGLIGIBLE_SHARE = 0.01
_FEWEST_DIGITS, _MOST_DIGITS = 2, 9
_HUGE = 1e7
_NOTHING = "-"
_CURE_BITS = 8
_LEGEND = (
    "measured: loss at the precision minus loss at fp32; predicted: the same to second order around fp32, which is the "
    "part of the gradient (first) and that of the Hessian (second); bound: what the prediction cannot exceed (Tran et "
    "al. 2022); the table below it splits the prediction by layer; * marks the costliest layer of each group; ? marks "
    "a prediction that is off by more than half"
)


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    samples: int
    account: Account
    costs: tuple[float, ...]
    holds: bool


def render_explanation(audit: Audit, results: Sequence[PrecisionResult], *, width: int = 80) -> str:
    """Return for each precision which layer costs the worst-hurt group most, how to cure it, and the account.

    The ten groups whose loss rises most are shown, and the ten layers that cost one of them most.

    Parameters
    ----------
    audit : Audit
        Made with curvature.
    results : sequence of PrecisionResult
        Quantized precisions of this audit.
    width : int
        Terminal columns.
    """
    lines = wrapped([*preamble(audit), f"loss    mean cross-entropy in nats, {on_samples(audit)}"], width)
    for result in results:
        lines += ["", *_explained(audit, result, width)]
    return "\n".join([*lines, "", *wrapped([_LEGEND], width)]) + "\n"


def _explained(audit: Audit, result: PrecisionResult, width: int) -> list[str]:
    told = sorted(_told(audit, result), key=lambda group: group.account.measured, reverse=True)
    shown = told[:_MOST_GROUPS]
    digits = _digits(value for group in shown for value in (group.account.measured, group.account.predicted))
    notes = undefined_notes(audit, [result], {"account": "the account"})
    if len(told) > len(shown):
        notes.append(f"note    {len(told) - len(shown)} groups whose loss rises less are not shown")
    lines = wrapped([*_headlines(result, told, digits, has_own_bits=bool(audit.settings.allocation)), *notes], width)
    if shown:
        lines += ["", *_group_table(shown, digits, width)]
    if shown and result.moved:
        lines += ["", *_layer_table(result, shown, digits, width)]
    return lines


def _told(audit: Audit, result: PrecisionResult) -> Iterator[_Group]:
    accounts = [curvature.account for curvature in result.curvature]
    largest = max((abs(account.measured) for account in accounts if account is not None), default=0.0)
    negligible = max(_NEGLIGIBLE, _NEGLIGIBLE_SHARE * largest)
    for name, curvature, account in zip(audit.groups, result.curvature, accounts, strict=True):
        if account is not None:
            yield _Group(name, curvature.samples, account, account.by_tensor, _holds(account, negligible))


def _holds(account: Account, negligible: float) -> bool:
    """Return whether the expansion is off by at most half of the larger of both, or by next to nothing."""
    larger = max(abs(account.predicted), abs(account.measured))
    return abs(account.predicted - account.measured) <= max(larger / 2, negligible)


def _headlines(result: PrecisionResult, told: Sequence[_Group], digits: int, *, has_own_bits: bool) -> list[str]:
    name = result.precision
    if not told:
        return [f"{name}: no group has an account of its loss"]
    worst, broken = told[0], _breakdown(told, digits)
    group, costs = shown_name(worst.name), worst.costs
    predicted, measured = _signed(worst.account.predicted, digits), _signed(worst.account.measured, digits)
    if worst.account.measured <= _NEGLIGIBLE:
        return [f"{name}: no group's loss rises by more than {_NEGLIGIBLE:.4f}", *broken]
    if max(costs, default=0.0) <= 0:
        told_of = f"(predicted {predicted}, measured {measured})"
        return [f"{name}: to second order no layer costs group {group} anything {told_of}", *broken]
    layer = costs.index(max(costs))
    headline = f"{name}: {_titled(result.moved[layer])} costs group {group} most: {_signed(costs[layer], digits)}"
    headline += f" of a predicted {predicted} (measured {measured})"
    if len(told) > 1:
        headline += f"; {_signed(_mean_of_others(told, 0, layer), digits)} on average in the other groups"
    return [
        headline,
        *_most_uneven(result, told, (0, layer), digits),
        *broken,
        *_cure(result, layer, has_own_bits=has_own_bits),
    ]


def _most_uneven(result: PrecisionResult, told: Sequence[_Group], but: tuple[int, int], digits: int) -> list[str]:
    """Return a line on the layer that costs one group most above the others, unless the headline told of it."""
    if len(told) < 2:
        return []
    above = {
        (index, layer): cost - _mean_of_others(told, index, layer)
        for index, group in enumerate(told)
        for layer, cost in enumerate(group.costs)
    }
    index, layer = place = max(above, key=above.__getitem__)
    cost = told[index].costs[layer]
    if place == but or min(cost, above[place]) <= _NEGLIGIBLE:
        return []
    return [
        f"{result.precision}: {_titled(result.moved[layer])} is the least even: {_signed(cost, digits)} for "
        f"group {shown_name(told[index].name)}, {_signed(cost - above[place], digits)} on average in the other groups"
    ]


def _breakdown(told: Sequence[_Group], digits: int) -> list[str]:
    broken = [group for group in told if not group.holds]
    if not broken:
        return []
    named = [
        f"{shown_name(group.name)} (predicted {_signed(group.account.predicted, digits)}, "
        f"measured {_signed(group.account.measured, digits)})"
        for group in broken[:_MOST_BROKEN]
    ]
    more = [f"{len(broken) - _MOST_BROKEN} more"] if len(broken) > _MOST_BROKEN else []
    whose = f"group{'s' if len(broken) > 1 else ''} {', '.join([*named, *more])}"
    return [f"warning the expansion does not hold here for {whose}: the ranking of layers is a hint at most"]


def _cure(result: PrecisionResult, layer: int, *, has_own_bits: bool) -> list[str]:
    """Return how to keep the layer at more bits beside those that have their own; nothing where it cannot have any."""
    name = result.moved[layer]
    bits = {weight.name: weight.bits for weight in result.weights.layers}.get(name)
    if bits is None or not Precision(result.precision).is_integer:
        return []
    option, value = "--layer-bits", f"{_layer(name)}={_CURE_BITS}"
    if bits >= _CURE_BITS:
        option, value = "--exclude", _layer(name)
    value = shlex.quote(value)
    told = f"add {value} to {option}" if has_own_bits else f"{option} {value}"
    return [f"cure    keep {_titled(name)} at more bits, and audit again: {told}"]


def _group_table(shown: Sequence[_Group], digits: int, width: int) -> list[str]:
    accounts = [group.account for group in shown]
    columns = {
        "measured": [_signed(account.measured, digits) for account in accounts],
        "predicted": [_signed(account.predicted, digits) for account in accounts],
        "first": [_signed(fsum(account.first_order), digits) for account in accounts],
        "second": [_signed(fsum(account.second_order), digits) for account in accounts],
        "bound": [_NOTHING if account.bound is None else compact(account.bound) for account in accounts],
    }
    cells = {head: right_aligned([head, *texts]) for head, texts in columns.items()}
    if not all(group.holds for group in shown):
        marks = [" ", *(" " if group.holds else "?" for group in shown)]
        cells["predicted"] = [text + mark for text, mark in zip(cells["predicted"], marks, strict=True)]
    left = [["group", "n"], *([shown_name(group.name, NAME_WIDTH), str(group.samples)] for group in shown)]
    return in_blocks(
        aligned(left, right=[1]), [[Cell(text) for text in texts] for texts in cells.values()], width=width
    )


def _layer_table(result: PrecisionResult, shown: Sequence[_Group], digits: int, width: int) -> list[str]:
    costs = [group.costs for group in shown]
    by_cost = sorted(range(len(result.moved)), key=lambda layer: -max(parts[layer] for parts in costs))
    costliest = {parts.index(max(parts)) for parts in costs}  # one of each group, so that no group lacks its own
    kept = set(sorted(by_cost, key=lambda layer: layer not in costliest)[:_MOST_LAYERS])
    rows, rest = [row for row in by_cost if row in kept], [row for row in by_cost if row not in kept]
    bits = {weight.name: str(weight.bits) for weight in result.weights.layers}
    names = shown_apart([result.moved[row].removesuffix(".weight") for row in rows], max(width // 3, _LEAST_NAME))
    left = [["layer", "bits"]]
    left += [[name, bits.get(result.moved[row], _NOTHING)] for name, row in zip(names, rows, strict=True)]
    if rest:
        left.append([f"{len(rest)} more", ""])
    left.append(["all", ""])
    columns = []
    for head, parts, group in zip(
        shown_apart([group.name for group in shown], _GROUP_WIDTH), costs, shown, strict=True
    ):
        values = [parts[row] for row in rows]
        if rest:
            values.append(fsum(parts[row] for row in rest))
        texts = right_aligned([head, *(_signed(value, digits) for value in (*values, group.account.predicted))])
        worst = rows.index(parts.index(max(parts))) if max(parts) > 0 and len(parts) > 1 else None
        columns.append([Cell(f"{text} *" if row - 1 == worst else f"{text}  ") for row, text in enumerate(texts)])
    return in_blocks(aligned(left, right=[1]), columns, width=width)


def _mean_of_others(told: Sequence[_Group], index: int, layer: int) -> float:
    others = [group.costs[layer] for place, group in enumerate(told) if place != index]
    return fsum(others) / len(others)


def _layer(tensor: str) -> str:
    return printable(tensor.removesuffix(".weight"))


def _titled(tensor: str) -> str:
    return f"{'layer' if tensor.endswith('.weight') else 'parameter'} {_layer(tensor)}"


def _digits(values: Iterable[float]) -> int:
    """Return how many decimals give the largest of these values three significant digits, from 2 to 9."""
    largest = max(map(abs, values), default=0.0)
    return min(max(2 - floor(log10(largest)), _FEWEST_DIGITS), _MOST_DIGITS) if largest else _FEWEST_DIGITS


def _signed(value: float, digits: int) -> str:
    return f"{'+' if round(value, digits) > 0 else ''}{_plain(value, digits)}"


def _plain(value: float, digits: int) -> str:
    return f"{value:.3g}" if abs(value) >= _HUGE else f"{round(value, digits) + 0.0:,.{digits}f}"
