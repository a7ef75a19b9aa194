"""What a precision did to the weights: distance from fp32, sparsity and their distribution."""

import numpy as np
from torch import Tensor

from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import QuantizedModel
from qfair_check.record import Histogram, Weights

HISTOGRAM_BINS = 101

_BLOCK = 2**14


def weights_record(quantized: QuantizedModel, reach: float) -> Weights:
    """Describe the quantized tensors of a model.

    Absolute weight difference is sum_k abs(w~_k - w_k); sparsity is the share of exactly zero weights. The
    histogram has 101 equal bins on [-reach, reach], the same at every precision, zero in the middle of one.

    Parameters
    ----------
    quantized : QuantizedModel
    reach : float
        Largest absolute weight of the fp32 model, or of the model itself if that is larger.

    Source: Bellam & Kim, arXiv 2509.07222, eqs. (5) and (6), Fig. 4.
    """
    layers = quantized.layers
    elements = sum(layer.elements for layer in layers)
    zeros = sum(layer.zeros for layer in layers)
    moved = [layer.weight_difference for layer in layers]
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for weight in _quantized(quantized):
        counts += _histogram(weight, reach)
    return Weights(
        elements=elements,
        zeros=zeros,
        sparsity=zeros / elements if elements else None,
        weight_difference=None if None in moved else sum(difference for difference in moved if difference is not None),
        histogram=Histogram(-reach, reach, tuple(counts.tolist())),
        layers=layers,
    )


def weight_reach(quantized: QuantizedModel) -> float:
    """Return the largest absolute value among the quantized tensors; 1 if there is none or all are zero."""
    largest = [float(weight.abs().max()) for weight in _quantized(quantized) if weight.numel()]
    return max(largest, default=0.0) or 1.0


def _quantized(quantized: QuantizedModel) -> list[Tensor]:
    weights = {name: weight.detach() for name, weight, _ in quantizable_weights(quantized.module)}
    return [weights[layer.name] for layer in quantized.layers]


def _histogram(weight: Tensor, reach: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    values = weight.cpu().numpy().reshape(-1)
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for start in range(0, len(values), _BLOCK):  # a block stays in the processor's cache
        position = (values[start : start + _BLOCK].astype(np.float64) + reach) * (HISTOGRAM_BINS / (2 * reach))
        bins = np.clip(position, 0, HISTOGRAM_BINS - 1).astype(np.int64)
        counts += np.bincount(bins, minlength=HISTOGRAM_BINS)
    return counts
