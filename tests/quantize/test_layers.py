import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from qfair_check.errors import InputError
from qfair_check.quantize.layers import quantizable_weights


def names_and_axes(module):
    return [(name, axis) for name, _, axis in quantizable_weights(module)]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv1d(4, 6, 3), [("weight", 0)]),
        (nn.Conv2d(4, 6, 3, groups=2), [("weight", 0)]),
        (nn.Conv3d(4, 6, 3), [("weight", 0)]),
        (nn.ConvTranspose1d(4, 6, 3), [("weight", 1)]),
        (nn.ConvTranspose2d(4, 6, 3), [("weight", 1)]),
        (nn.ConvTranspose3d(4, 6, 3), [("weight", 1)]),
        (nn.Linear(4, 6), [("weight", 0)]),
        (nn.Embedding(4, 6), [("weight", 0)]),
        (nn.EmbeddingBag(4, 6), [("weight", 0)]),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), [("in_proj_weight", 0), ("out_proj.weight", 0)]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            [("q_proj_weight", 0), ("k_proj_weight", 0), ("v_proj_weight", 0), ("out_proj.weight", 0)],
        ),
        (nn.RNN(3, 4), [("weight_ih_l0", 0), ("weight_hh_l0", 0)]),
        (nn.LSTM(3, 4, proj_size=2), [("weight_ih_l0", 0), ("weight_hh_l0", 0), ("weight_hr_l0", 0)]),
        (
            nn.GRU(3, 4, bidirectional=True),
            [(f"weight_{kind}_l0{way}", 0) for way in ("", "_reverse") for kind in ("ih", "hh")],
        ),
        (nn.RNNCell(3, 4), [("weight_ih", 0), ("weight_hh", 0)]),
        (nn.LSTMCell(3, 4), [("weight_ih", 0), ("weight_hh", 0)]),
        (nn.GRUCell(3, 4), [("weight_ih", 0), ("weight_hh", 0)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_of_each_kind_of_layer(layer, expected):
    assert names_and_axes(layer) == expected


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.PReLU(), nn.ReLU()])
def test_norms_and_activations_stay(layer):
    assert names_and_axes(layer) == []


def test_order_names_and_parameters_are_those_of_the_module():
    net = nn.Sequential()
    net.add_module("last", nn.Linear(2, 2))
    net.add_module("first", nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    found = list(quantizable_weights(net))
    assert [name for name, _, _ in found] == ["last.weight", "first.0.weight"]
    assert found[0][1] is net.last.weight


def test_a_tied_weight_comes_once_by_its_first_name():
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "shared": nn.Linear(2, 2), "head": nn.Linear(3, 5)})
    net["head"].weight = net["embedding"].weight
    net["again"] = net["shared"]
    assert names_and_axes(net) == [("embedding.weight", 0), ("shared.weight", 0)]


def test_a_subclass_is_what_it_extends():
    class Scaled(nn.Linear):
        pass

    assert names_and_axes(nn.Sequential(Scaled(2, 2))) == [("0.weight", 0)]


def pruned(layer, name):
    prune.l1_unstructured(layer, name, 0.5)
    return layer


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (pruned(nn.Linear(4, 4), "weight"), "weight"),
        (pruned(nn.LSTM(3, 4), "weight_hh_l0"), "weight_hh_l0"),
        (parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), "weight"),
    ],
)
def test_a_computed_weight_is_refused(layer, name):
    with pytest.raises(InputError) as error:
        list(quantizable_weights(nn.Sequential(layer)))
    assert str(error.value) == (
        f"0.{name} is not a parameter but computed from others (pruning, weight_norm or a parametrization): make it "
        "one, such as by torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
    )


def test_a_removed_parametrization_is_a_parameter_again():
    layer = pruned(nn.Linear(4, 4), "weight")
    prune.remove(layer, "weight")
    assert names_and_axes(layer) == [("weight", 0)]


def test_packed_weights_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"^weight holds int8, not floating-point weights"):
        list(quantizable_weights(layer))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_weights_without_a_shape_are_refused():
    with pytest.raises(InputError, match=r"^0\.weight has no shape yet: run one batch"):
        list(quantizable_weights(nn.Sequential(nn.LazyLinear(2))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("layer", [nn.Linear(4, 6), nn.LSTM(4, 6)], ids=["linear", "lstm"])
def test_layers_that_are_quantized_already_are_refused(layer):
    dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Conv1d(1, 1, 1), layer))
    with pytest.raises(InputError, match=r"^1 is quantized already: give the model as it was trained$"):
        list(quantizable_weights(dynamic))


@pytest.mark.parametrize(
    ("module", "expected"),
    [("transformers.pytorch_utils", [("weight", 1)]), ("a.b", []), ("zoo", []), ("transformers.pytorch_utils.x", [])],
)
def test_a_transposed_linear_of_transformers_is_known_by_its_name(module, expected):
    kind = type("Conv1D", (nn.Module,), {"__module__": module})
    layer = kind()
    layer.weight = nn.Parameter(torch.ones(2, 3))
    assert names_and_axes(layer) == expected


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_scripted_layers_are_those_that_they_were_made_from():
    net = nn.Sequential(nn.ConvTranspose1d(2, 3, 1), nn.Flatten(), nn.Linear(6, 2)).eval()
    assert names_and_axes(torch.jit.script(net)) == names_and_axes(net) == [("0.weight", 1), ("2.weight", 0)]
