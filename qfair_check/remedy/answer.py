"""What a model answers to a batch while it is trained and counted."""

import torch
from torch import Tensor, nn

from qfair_check.errors import MeasureError, QFairError
from qfair_check.inputs.sample import Sample, called, described, kind, mapped
from qfair_check.measure.outputs import logits_of


def answered(module: nn.Module, inputs: Sample, samples: int) -> Tensor:
    """Return the logits of a batch, float32, shape (samples, classes); a model that changes its input changes a copy.

    Raises
    ------
    MeasureError
        If the model fails, or gives no logits.

    Examples
    --------
    >>> batch = torch.tensor([[-1.0, 2.0]])
    >>> answered(nn.ReLU(inplace=True), batch, 1).tolist(), batch.tolist()
    ([[0.0, 2.0]], [[-1.0, 2.0]])
    """
    try:
        return logits_of(called(module, mapped(torch.clone, inputs)), samples).float()
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        if isinstance(error, QFairError) and not isinstance(error, MeasureError):
            raise
        raised = "" if isinstance(error, MeasureError) else f"{type(error).__name__}: "
        mode = "in training mode" if module.training else "in eval mode"
        raise MeasureError(
            f"the model {mode} failed on training data, as a batch of shape {described(kind(inputs))}: {raised}{error}"
        ) from error
