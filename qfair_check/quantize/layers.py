"""Which tensors of a module are quantized."""

from collections.abc import Iterator

from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Linear, nn.Embedding, nn.EmbeddingBag)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def quantizable_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield name, parameter and axis of output channels of each tensor that is quantized.

    These are the weights of convolutions, linear layers and embeddings, the input projections of attention
    and the weights of recurrent cells; biases and norms stay. A tied tensor comes once, by its first name.

    Parameters
    ----------
    module : torch.nn.Module

    Examples
    --------
    >>> [name for name, _, _ in quantizable_weights(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))]
    ['0.weight']
    """
    seen: set[int] = set()
    for prefix, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            axis = _channel_axis(layer, name)
            if axis is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield f"{prefix}.{name}" if prefix else name, parameter, axis


def _channel_axis(layer: nn.Module, name: str) -> int | None:
    if isinstance(layer, _TRANSPOSED):
        return 1 if name == "weight" else None
    if isinstance(layer, _CONVOLUTIONS + _TABLES):
        return 0 if name == "weight" else None
    if isinstance(layer, nn.MultiheadAttention):
        return 0 if name in _ATTENTION_WEIGHTS else None
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return 0 if name.startswith("weight_") else None
    return None
