import pytest
import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.inputs.fit import missing, named_as


def net(hidden: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))


def under(prefix: str, module: nn.Module | None = None) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in (module or net()).state_dict().items()}


@pytest.mark.parametrize(
    "prefix", ["", "net.", "a.b.c.", "0.", "0.0.", "module.", "net._orig_mod.", "_orig_mod.net.module.", "é."]
)
def test_the_names_are_found_under_any_prefix(prefix: str) -> None:
    named = named_as(net(), under(prefix), "a.pt", "net")
    assert list(named.state) == list(net().state_dict())
    assert (named.prefix, named.outside, named.notices("a.pt")) == (prefix, (), ())


def test_what_lies_outside_is_listed() -> None:
    state = under("net.") | {"network.0.weight": torch.zeros(1), "scale": torch.zeros(1)}
    named = named_as(net(), state, "a.pt", "net")
    assert named.outside == ("network.0.weight", "scale")
    assert named.notices("a.pt") == (
        "2 tensors of a.pt lie outside net., under which the model's weights are, and are left out: network.0.weight, "
        "scale",
    )


def test_what_is_unexpected_under_the_prefix_stays_to_be_refused() -> None:
    assert "extra" in named_as(net(), under("net.") | {"net.extra": torch.zeros(1)}, "a.pt", "net").state


@pytest.mark.parametrize("inserted", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_wrappers_inside_insert_is_left_out_of_names(inserted: str) -> None:
    whole = nn.ModuleDict({"encoder": net(), "decoder": net()})
    state = under(f"encoder.{inserted}") | under("decoder.")
    assert named_as(whole, state, "a.pt", "whole").state.keys() == whole.state_dict().keys()


def test_a_part_that_is_named_module_keeps_its_name() -> None:
    whole = nn.ModuleDict({"module": net(), "head": nn.Linear(2, 2)})
    state = whole.state_dict()
    assert named_as(whole, state, "a.pt", "whole").state.keys() == state.keys()


def test_two_copies_are_an_error_that_lists_them() -> None:
    with pytest.raises(InputError) as caught:
        named_as(net(), under("student.") | under("teacher."), "a.pt", "nets:net")
    assert str(caught.value) == (
        "a.pt holds the weights of nets:net 2 times, under student., teacher.: give --qfair-arch the whole model, or "
        "save the state dict of the one to be audited"
    )


def test_a_copy_beside_weights_without_a_prefix_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match=r"2 times, under no prefix, ema\.: give"):
        named_as(net(), under("") | under("ema."), "a.pt", "nets:net")


def test_shapes_decide_between_two_copies() -> None:
    state = under("student.") | under("teacher.", net(6))
    assert named_as(net(), state, "a.pt", "net").prefix == "student."
    assert named_as(net(6), state, "a.pt", "net").prefix == "teacher."


def test_two_copies_that_differ_in_the_number_of_classes_are_an_error() -> None:
    """The number is read off the weights, so that it cannot decide."""
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1000))
    state = under("a.", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    state |= under("b.", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    with pytest.raises(InputError, match=r"2 times, under a\., b\.:"):
        named_as(module, state, "a.pt", "net")


def test_of_names_that_do_not_fit_the_closest_are_kept_for_the_message() -> None:
    state = under("net.")
    del state["net.2.bias"]
    named = named_as(net(), state, "a.pt", "net")
    assert named.prefix == "net."
    assert missing(net(), named.state) == ["2.bias"]


def test_names_of_another_model() -> None:
    state = {"encoder.w": torch.zeros(1), "encoder.b": torch.zeros(1)}
    named = named_as(net(), state, "a.pt", "net")
    assert (named.prefix, named.outside) == ("", ())


def test_one_of_several_tied_names_is_enough() -> None:
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    for name in ("a", "b"):
        state = {key: value for key, value in under("net.", tied).items() if key != f"net.{name}.weight"}
        assert named_as(tied, state, "a.pt", "tied").prefix == "net."
    assert missing(tied, {"a.bias": torch.zeros(3)}) == ["a.weight", "b.weight", "b.bias"]


def test_counters_of_norms_may_be_missing() -> None:
    state = {name: value for name, value in under("net.").items() if not name.endswith("num_batches_tracked")}
    assert named_as(net(), state, "a.pt", "net").prefix == "net."
