"""Example difficulty: how well each group is learned, and how much of it holds for samples that are held out."""

from qfair_check.report.figures.canvas import (
    LINE,
    SMALL,
    WIDTH,
    Canvas,
    apart,
    dashes,
    legend_lines,
    painted,
    points,
    shown_names,
    text_width,
)
from qfair_check.report.figures.exhibit import Drawing, Exhibit, Table
from qfair_check.report.figures.palette import COLOURS, INK, Mark
from qfair_check.report.figures.values import MOST_DRAWN
from qfair_check.training_record import TrainingRecord

_COLUMNS = 4
_PANEL, _TITLE = 92, 24
_LEFT, _BETWEEN, _AXIS = 40.0, 14.0, 40.0
_TABLE_NAME = 100
_MOST_TICKS, _MOST_POINTS = 5, 15
_FIT, _HELD_OUT = Mark(COLOURS[8].light, "s", (3.0, 2.0)), Mark(COLOURS[0].light, "o")
_LEGEND = [("trained on", _FIT), ("held out", _HELD_OUT)]


def difficulty_exhibit(training: TrainingRecord, key: str = "difficulty") -> Exhibit:
    """Return the accuracy of every group after each epoch, on samples that are trained on and on those held out.

    Parameters
    ----------
    training : TrainingRecord
    key : str
        Distinct within a page: ids begin with it.
    """
    drawn = _drawn(training)
    left = len(training.groups) - len(drawn)
    notes = [
        f"Trained by {training.strategy} for {training.precision}; the model that was audited is "
        + (f"that of epoch {training.chosen}." if training.chosen else "rounded without training."),
        "Both accuracies are of the quantized model after the epoch, before its outputs are moved, if they are. "
        "Held-out samples, n of each group, chose the epoch; the audited samples are neither.",
    ]
    if left > 0:
        who = f"{left:,} groups are" if left > 1 else "1 group is"
        notes.append(
            f"{who} in the table only: drawn are the {MOST_DRAWN - 1} with the lowest accuracy on held-out samples "
            "after the last epoch, and the one with the highest."
        )
    return Exhibit(
        key,
        "Example difficulty: accuracy by epoch",
        "section 4.6",
        "A group whose lines stay low is hard to learn, and one whose lines part is learned by heart: its accuracy on "
        "samples that it trained on does not hold for others.",
        tuple(notes),
        (
            Drawing(
                _svg(training, drawn, key),
                "Small charts, one for each group, of accuracy after each epoch: a line for samples that are trained "
                "on, and one for those held out.",
            ),
        ),
        _table(training),
    )


def _drawn(training: TrainingRecord) -> list[int]:
    indices = list(range(len(training.groups)))
    if len(indices) <= MOST_DRAWN:
        return indices
    last = training.epochs[-1].held_out
    ranked = sorted(indices, key=lambda index: _share(last[index], training.held_out_samples[index]) or 0.0)
    return sorted([*ranked[: MOST_DRAWN - 1], ranked[-1]])


def _table(training: TrainingRecord) -> Table:
    names = apart(training.groups, lambda name, shorten: shorten(name, _TABLE_NAME))
    rows = [
        [
            name,
            str(number),
            *(
                f"{right:,} of {samples:,}" + ("" if (share := _share(right, samples)) is None else f" ({share:.3f})")
                for right, samples in (
                    (epoch.fit[index], training.fit_samples[index]),
                    (epoch.held_out[index], training.held_out_samples[index]),
                )
            ),
        ]
        for index, name in enumerate(names)
        for number, epoch in enumerate(training.epochs, 1)
    ]
    return Table(["group", "epoch", "right of those trained on", "right of those held out"], rows)


def _share(right: int, samples: int) -> float | None:
    return right / samples if samples else None


def _svg(training: TrainingRecord, groups: list[int], key: str) -> str:
    top = LINE * legend_lines([name for name, _ in _LEGEND], lines=True) + 8
    columns = min(_COLUMNS, max(2, len(groups)))
    rows = -(-len(groups) // columns)
    width = (WIDTH - _LEFT - 10 - _BETWEEN * (columns - 1)) / columns
    sizes = [f"n={training.held_out_samples[index]:,}" for index in groups]
    room = width - max(text_width(size, SMALL) for size in sizes) - 8
    names = shown_names([training.groups[index] for index in groups], room, SMALL, bold=True)
    height = top + rows * (_TITLE + _PANEL + 10) + _AXIS
    epochs = list(range(1, len(training.epochs) + 1))

    def paint(canvas: Canvas) -> None:
        canvas.legend(_LEGEND, LINE / 2, lines=True)
        for place, (index, name, size) in enumerate(zip(groups, names, sizes, strict=True)):
            down, right = divmod(place, columns)
            x, y = _LEFT + right * (width + _BETWEEN), top + down * (_TITLE + _PANEL + 10) + _TITLE
            canvas.text(x, y - 11, name, size=SMALL, bold=True)
            canvas.text(x + width, y - 11, size, "right", size=SMALL, muted=True)
            axes = canvas.axes((x, y, width, _PANEL))
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_ylim(-0.04, 1.04)
            ticks = epochs[:: -(-len(epochs) // _MOST_TICKS)]
            axes.set_xticks(ticks, [str(epoch) for epoch in ticks])
            axes.set_xlim(0.5, len(epochs) + 0.5)
            if right:
                axes.set_yticklabels([])
            if place + columns < len(groups):
                axes.set_xticklabels([])
            if training.chosen is not None:
                axes.axvline(training.chosen, color=INK, alpha=0.5, linewidth=0.8)
            for mark, counts, samples in (
                (_FIT, [epoch.fit[index] for epoch in training.epochs], training.fit_samples[index]),
                (_HELD_OUT, [epoch.held_out[index] for epoch in training.epochs], training.held_out_samples[index]),
            ):
                if samples:
                    shares = [right_ones / samples for right_ones in counts]
                    axes.plot(epochs, shares, color=mark.colour, linewidth=1.6, **dashes(mark))
                    if len(epochs) <= _MOST_POINTS:
                        axes.plot(epochs, shares, **points(mark, 3.5))
        below = "epoch" + ("; the upright line: the one that was taken" if training.chosen is not None else "")
        taken = min(columns, len(groups))
        canvas.text(_LEFT + (taken * (width + _BETWEEN) - _BETWEEN) / 2, height - 10, below, "center")

    return painted(height, key, paint)
