"""Weight-only QAT of other libraries, on the layers that `attach_lsq` takes and with the same bits."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Bits = Mapping[str, int]
Convert = Callable[[nn.Module, Bits], nn.Module]


def by_brevitas(module: nn.Module, bits: Bits) -> nn.Module:
    """Return a copy with layers of Brevitas, one learned scale for each weight, as LSQ has it."""
    import brevitas.nn
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant.scaled_int import Int8WeightPerTensorFloat

    class Learned(Int8WeightPerTensorFloat):
        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS

    net = copy.deepcopy(module)
    for name, width in bits.items():
        plain = net.get_submodule(name)
        chosen = {"weight_quant": Learned, "weight_bit_width": width, "bias": plain.bias is not None}
        if isinstance(plain, nn.Conv2d):
            sizes = (plain.in_channels, plain.out_channels, plain.kernel_size)
            layer = brevitas.nn.QuantConv2d(*sizes, stride=plain.stride, padding=plain.padding, **chosen)
        else:
            layer = brevitas.nn.QuantLinear(plain.in_features, plain.out_features, **chosen)
        layer.load_state_dict(plain.state_dict(), strict=False)
        net.set_submodule(name, layer.train(), strict=True)
    return net


def by_torchao(module: nn.Module, bits: Bits) -> nn.Module:
    """Return a copy with fake quantizers of torchao, which know one scale for each output channel.

    Its own layers are linear ones alone, so that they stand before the weights of convolutions as a parametrization.
    """
    from torchao.quantization.qat import FakeQuantizerBase, IntxFakeQuantizeConfig

    class OfMatrix(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.quantizer = FakeQuantizerBase.from_config(
                IntxFakeQuantizeConfig(getattr(torch, f"int{width}"), "per_channel")
            )

        def forward(self, weight: Tensor) -> Tensor:
            return self.quantizer(weight.flatten(1)).view_as(weight)

    net = copy.deepcopy(module)
    for name, width in bits.items():
        parametrize.register_parametrization(net.get_submodule(name), "weight", OfMatrix(width))
    return net


OTHERS: Mapping[str, Convert] = {"brevitas": by_brevitas, "torchao": by_torchao}
