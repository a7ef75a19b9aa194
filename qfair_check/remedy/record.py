"""The training of a remedy, as an audit keeps it."""

from qfair_check.remedy.fair_qat import Remedy
from qfair_check.training_record import TrainingEpoch, TrainingRecord


def training_record(remedy: Remedy) -> TrainingRecord | None:
    """Return right answers of each group by epoch; None if nothing was trained.

    Of each epoch's candidates it is the first, whose outputs are not moved, on as many samples that are trained on as
    are held out.
    """
    if not remedy.epochs:
        return None
    first = remedy.epochs[0]
    return TrainingRecord(
        strategy=remedy.recipe.strategy,
        precision=remedy.recipe.bits.name,
        groups=remedy.group_names,
        fit_samples=first.fit.samples,
        held_out_samples=first.candidates[0].counts.samples,
        epochs=tuple(
            TrainingEpoch(record.loss.cross_entropy, record.fit.correct, record.candidates[0].counts.correct)
            for record in remedy.epochs
        ),
        chosen=remedy.chosen.epoch,
    )
