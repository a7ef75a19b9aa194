"""Whole models of the kinds that people train: what of them is quantized, and that the copy computes with it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from qfair_check.errors import InputError
from qfair_check.quantize.model import quantize_model, quantized_share

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

TOKENS = torch.arange(36).reshape(4, 9) % 30
IMAGES = torch.linspace(-1, 1, 4 * 3 * 32 * 32).reshape(4, 3, 32, 32)
ROWS = torch.linspace(-2, 2, 4 * 7).reshape(4, 7)


class Recurrent(nn.Module):
    """A text classifier: embedding, recurrent layer, mean over time."""

    def __init__(self, layer: type[nn.RNNBase], **options: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 6, padding_idx=0)
        self.recurrent = layer(6, 5, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear(directions * options.get("proj_size", 5), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0].mean(1))


class Tabular(nn.Module):
    """Numbers and one category, which has an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.category = nn.Embedding(4, 3)
        self.layers = nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 2))

    def forward(self, rows: Tensor) -> Tensor:
        category = self.category(rows[:, 0].abs().long().clamp(0, 3))
        return self.layers(torch.cat([rows[:, 1:], category], 1))


class Attending(nn.Module):
    """Attention whose keys and values have widths of their own, and with a key and a value that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = x.mean((2, 3)).repeat(1, 8)[:, :24].reshape(-1, 3, 8)
        attended, _ = self.attention(query, query[..., :3], query[..., :5])
        return self.head(self.norm(attended)[:, 0])


class Encoder(nn.Module):
    """A text transformer, whose layers take a fused path in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.position = nn.Parameter(torch.randn(1, 9, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens) + self.position)[:, 0])


class Tied(nn.Module):
    """A language model, whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(30, 6), nn.Linear(6, 6), nn.Linear(6, 30)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)).tanh().mean(1))


class Bagged(nn.Module):
    """A bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(30, 6, mode="mean"), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bag(tokens))


class Reshaped(nn.Module):
    """Flat input in the shape that layers take."""

    def __init__(self, shape: tuple[int, ...], *layers: nn.Module) -> None:
        super().__init__()
        self.shape, self.layers = shape, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)[:, : np.prod(self.shape)].reshape(-1, *self.shape)).flatten(1)


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3),
        nn.GroupNorm(2, 6),
        nn.Conv2d(6, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5400, 3),
    )


def transposed(axes: int) -> nn.Module:
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    first = layer(3, 4, 3, stride=2)
    return Reshaped((3, *[4] * axes), first, nn.GroupNorm(2, 4), nn.ReLU(), layer(4, 2, 2, groups=2))


def vision_transformer() -> nn.Module:
    """Return the layout of vit_b_16 at a small size; torchvision starts its class token and its head at zero."""
    net = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    for value in (net.class_token, net.heads.head.weight):
        nn.init.normal_(value)
    return net


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=3)


@dataclass(frozen=True)
class Kind:
    """A kind of model, its input, and the names of what is quantized: in order, or how many there are."""

    build: Callable[[], nn.Module]
    x: Tensor
    quantized: list[str] | int


def encoder_names(prefix: str, attention: str, layers: tuple[str, str]) -> list[str]:
    return [
        f"{prefix}{index}.{name}"
        for index in (0, 1)
        for name in (
            f"{attention}.in_proj_weight",
            f"{attention}.out_proj.weight",
            *(f"{part}.weight" for part in layers),
        )
    ]


KINDS = {
    "vision transformer": Kind(
        vision_transformer,
        IMAGES,
        [
            "conv_proj.weight",
            *encoder_names("encoder.layers.encoder_layer_", "self_attention", ("mlp.0", "mlp.3")),
            "heads.head.weight",
        ],
    ),
    "mobilenet": Kind(mobilenet, IMAGES, 54),
    "lstm": Kind(
        lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
        TOKENS,
        [
            "embedding.weight",
            *(
                f"recurrent.weight_{kind}_l{layer}{way}"
                for layer in (0, 1)
                for way in ("", "_reverse")
                for kind in ("ih", "hh")
            ),
            "head.weight",
        ],
    ),
    "projected lstm": Kind(
        lambda: Recurrent(nn.LSTM, proj_size=4),
        TOKENS,
        ["embedding.weight", *(f"recurrent.weight_{kind}_l0" for kind in ("ih", "hh", "hr")), "head.weight"],
    ),
    "gru": Kind(
        lambda: Recurrent(nn.GRU),
        TOKENS,
        ["embedding.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head.weight"],
    ),
    "rnn": Kind(
        lambda: Recurrent(nn.RNN),
        TOKENS,
        ["embedding.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head.weight"],
    ),
    "tabular": Kind(Tabular, ROWS, ["category.weight", "layers.0.weight", "layers.4.weight"]),
    "attention": Kind(
        Attending,
        IMAGES,
        [*(f"attention.{part}_proj_weight" for part in "qkv"), "attention.out_proj.weight", "head.weight"],
    ),
    "encoder": Kind(
        Encoder,
        TOKENS,
        ["embedding.weight", *encoder_names("encoder.layers.", "self_attn", ("linear1", "linear2")), "head.weight"],
    ),
    "tied": Kind(Tied, TOKENS, ["embedding.weight", "body.weight"]),
    "bag": Kind(Bagged, TOKENS, ["bag.weight", "head.weight"]),
    "depthwise": Kind(depthwise, IMAGES, ["0.weight", "2.weight", "5.weight"]),
    **{
        f"transposed {axes}d": Kind(lambda axes=axes: transposed(axes), IMAGES, ["layers.0.weight", "layers.3.weight"])
        for axes in (1, 2, 3)
    },
    "3d": Kind(
        lambda: Reshaped((3, 4, 4, 4), nn.Conv3d(3, 4, 3), nn.LayerNorm([4, 2, 2, 2])),
        IMAGES,
        ["layers.0.weight"],
    ),
    "1d": Kind(
        lambda: Reshaped((3, 16), nn.Conv1d(3, 6, 3, groups=3), nn.InstanceNorm1d(6, affine=True)),
        IMAGES,
        ["layers.0.weight"],
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def seeded(kind: Kind) -> nn.Module:
    """Build with random values everywhere, norms and biases too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind.build()
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point() and value.ndim < 2:
                value.data.uniform_(0.5, 1.5) if name.endswith("var") else value.data.normal_()
    return module


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Round half to even on the symmetric grid, in numpy."""
    values = weight.detach().numpy()
    scale = np.float32(np.abs(values).max()) / np.float32(2 ** (bits - 1) - 1)
    return torch.from_numpy(np.rint(values / scale) * scale)


def by_hand(kind: Kind, bits: int) -> nn.Module:
    """Round the weights of a model in place, by the rule that holds for every kind here: all of two axes or more.

    The exceptions are what a transformer learns beside its layers, and norms over several axes.
    """
    module = seeded(kind).eval()
    kept = ("class_token", "pos_embedding", "position", "attention.bias_k", "attention.bias_v")
    norms = {name for name, layer in module.named_modules() if isinstance(layer, nn.LayerNorm)}
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim > 1 and not name.endswith(kept) and name.rpartition(".")[0] not in norms:
                value.copy_(rounded(value, bits))
    return module


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def quantized_names(kind: Kind) -> list[str]:
    return [layer.name for layer in quantize_model(seeded(kind), 4).layers]


def test_which_tensors_are_quantized(kind: Kind) -> None:
    names = quantized_names(kind)
    if isinstance(kind.quantized, int):
        state = seeded(kind).state_dict()
        assert names == [name for name, value in state.items() if value.ndim > 1]
        assert len(names) == kind.quantized
    else:
        assert names == kind.quantized


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_everything_else_stays_bit_for_bit(kind: Kind, bits: int) -> None:
    module = seeded(kind)
    before, after = module.state_dict(), quantize_model(module, bits).module.state_dict()
    names = quantized_names(kind)
    tied = {"head.weight"} if isinstance(module, Tied) else set()
    for name, value in before.items():
        assert torch.equal(after[name], value) == (name not in {*names, *tied}), name


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_the_copy_computes_what_hand_rounded_weights_compute(
    kind: Kind, bits: int, mode: Callable[[], torch.no_grad]
) -> None:
    """Without gradients some layers take a fused path, on weights that they might have kept from before."""
    quantized, expected = quantize_model(seeded(kind), bits).module, by_hand(kind, bits)
    assert same(quantized, expected)
    with mode():
        found = quantized(kind.x)
        assert torch.equal(found, expected(kind.x))
        assert not torch.equal(found, seeded(kind).eval()(kind.x))


def test_the_given_model_is_not_touched(kind: Kind) -> None:
    module = seeded(kind).train()
    before = copy.deepcopy(module)
    identities = [id(value) for value in module.state_dict(keep_vars=True).values()]
    quantized = quantize_model(module, 2).module
    with torch.inference_mode():
        quantized(kind.x)
    assert same(module, before)
    assert identities == [id(value) for value in module.state_dict(keep_vars=True).values()]
    assert all(part.training for part in module.modules())
    assert not any(part.training for part in quantized.modules())
    mine = {value.data_ptr() for value in module.state_dict().values() if value.numel()}
    assert mine.isdisjoint(value.data_ptr() for value in quantized.state_dict().values())


def test_the_share_that_is_quantized(kind: Kind) -> None:
    module = seeded(kind)
    parameters = dict(module.named_parameters())
    assert quantized_share(module) == (
        sum(parameters[name].numel() for name in quantized_names(kind)),
        sum(value.numel() for value in parameters.values()),
    )


@pytest.mark.parametrize("name", ["vit_b_16", "mobilenet_v3_small", "resnet18"])
def test_the_share_of_models_at_their_full_size(name: str) -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model(name)
    kept = [
        value.numel()
        for name, value in module.named_parameters()
        if value.ndim == 1 or name in ("class_token", "encoder.pos_embedding")
    ]
    quantized, every = quantized_share(module)
    assert quantized == every - sum(kept) > 0.99 * every


def test_tied_weights_stay_tied() -> None:
    quantized = quantize_model(seeded(KINDS["tied"]), 4).module
    assert quantized.head.weight is quantized.embedding.weight
    assert quantized_share(quantized)[1] == 30 * 6 + 6 * 6 + 6 + 30


def test_a_recurrent_layer_keeps_no_other_weights() -> None:
    """It computes with a list of its own, which must hold the quantized parameters themselves."""
    layer = quantize_model(seeded(KINDS["lstm"]), 4).module.recurrent
    assert [id(value) for value in layer._flat_weights] == [
        id(getattr(layer, name)) for name in layer._flat_weights_names
    ]


def test_the_padding_of_an_embedding_stays_zero() -> None:
    module = KINDS["lstm"].build()
    for bits in (8, 2):
        quantized = quantize_model(module, bits).module
        assert quantized.embedding.weight[0].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    "normed",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        nn.utils.spectral_norm,
    ],
)
def test_a_weight_that_is_computed_is_refused_by_name(normed: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(3, 4), normed(nn.Linear(4, 2)))
    with pytest.raises(InputError, match=r"^1\.weight is not a parameter but computed from others"):
        quantize_model(net, 4)


def test_a_weight_norm_that_is_removed_is_quantized() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert [layer.name for layer in quantize_model(net, 4).layers] == ["0.weight", "1.weight"]
