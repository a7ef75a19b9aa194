"""A state dict is put under the names that a module expects, and must fit it."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from qfair_check.errors import InputError
from qfair_check.inputs.wording import counted, listed

PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
_COUNTER = "num_batches_tracked"  # older checkpoints lack it, and evaluation ignores it
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

State = Mapping[str, Tensor]
Matches = Callable[[Tensor, Tensor], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """A state dict under the names of a module; `prefix` is what stood before them, `outside` what it lacks."""

    state: State
    prefix: str = ""
    outside: tuple[str, ...] = ()

    def notices(self, source: str) -> tuple[str, ...]:
        """Say which tensors are left out."""
        if not self.outside:
            return ()
        are = "lies" if len(self.outside) == 1 else "lie"
        return (
            f"{counted(len(self.outside), 'tensor')} of {source} {are} outside {self.prefix}, under which the model's "
            f"weights are, and {'is' if are == 'lies' else 'are'} left out: {listed(self.outside)}",
        )


def named_as(module: nn.Module, state: State, source: str, architecture: str) -> Named:
    """Return the weights of a module out of a state dict, in which they may stand under a prefix.

    A trainer keeps the network in an attribute, so that its names begin with ``model.`` or ``net.``; the
    prefix is the one under which the state dict holds every name that the module expects.

    Parameters
    ----------
    module : torch.nn.Module
        Its values do not matter, and may be on the meta device.
    state : mapping of str to Tensor
    source, architecture : str
        For messages.

    Raises
    ------
    InputError
        If there are several such prefixes.

    Examples
    --------
    >>> import torch
    >>> state = {"net.weight": torch.zeros(2, 3), "net.bias": torch.zeros(2), "loss.scale": torch.ones(2)}
    >>> named = named_as(nn.Linear(3, 2), state, "a.ckpt", "linear")
    >>> sorted(named.state), named.prefix, named.outside
    (['bias', 'weight'], 'net.', ('loss.scale',))
    """
    tensors = _tensors(module)
    spellings = list(_spellings(state))
    for spelling in spellings:
        prefixes = _fitting(tensors, spelling)
        if len(prefixes) > 1:
            places = listed(prefix or "no prefix" for prefix in prefixes)
            raise InputError(
                f"{source} holds the weights of {architecture} {len(prefixes)} times, under {places}: give "
                "--qfair-arch the whole model, or save the state dict of the one to be audited"
            )
        if prefixes:
            return _under(prefixes[0], spelling)
    return max(
        (_under(_closest(tensors, spelling), spelling) for spelling in spellings),
        key=lambda named: len(named.state.keys() & tensors.keys()),
    )


def check_fit(module: nn.Module, state: State, source: str, architecture: str) -> None:
    """Check that a state dict holds what a module expects, and nothing else.

    Raises
    ------
    InputError
        Listing what is missing, unexpected, of another shape or of another type.
    """
    expected = _tensors(module)
    if any(isinstance(value, UninitializedParameter | UninitializedBuffer) for value in expected.values()):
        raise InputError(f"the architecture {architecture} has lazy layers, whose shapes are not known: give them")
    refuse_faults(
        {
            "missing": missing(module, state),
            "unexpected": [name for name in state if name not in expected],
            "of another shape": [
                f"{name} {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
                for name in expected
                if name in state and state[name].shape != expected[name].shape
            ],
            "of another type": [
                f"{name} {_type(state[name])}, not {_type(expected[name])}"
                for name in expected
                if name in state and expected[name].is_floating_point() and not state[name].is_floating_point()
            ],
        },
        source,
        architecture,
    )


def missing(module: nn.Module, state: State) -> list[str]:
    """Return the names that a module expects and a state dict lacks; one of several tied ones is enough."""
    return _missing(_tensors(module), state)


def refuse_faults(faults: Mapping[str, list[str]], source: str, architecture: str) -> None:
    """Raise if there is any fault; `faults` has the names by the kind of fault.

    Raises
    ------
    InputError
        Listing them.
    """
    told = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in faults.items() if names)
    if told:
        raise InputError(
            f"{source} does not fit the architecture {architecture}: {told}; name the one it was trained with"
        )


def place(value: Tensor) -> tuple[object, ...]:
    """Return what two tied tensors have in common: where their values are, and how they are laid out."""
    where = id(value) if value.is_meta else value.data_ptr()
    return where, value.shape, value.stride(), value.dtype


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _is_lazy(value: Tensor) -> bool:
    return isinstance(value, UninitializedParameter | UninitializedBuffer)


def _missing(expected: State, names: Iterable[str]) -> list[str]:
    held = expected.keys() & set(names)
    there = {place(expected[name]) for name in held if not _is_lazy(expected[name]) and expected[name].numel()}
    return [
        name
        for name, value in expected.items()
        if name not in held and (_is_lazy(value) or place(value) not in there) and name.rpartition(".")[2] != _COUNTER
    ]


def _spellings(state: State) -> Iterator[State]:
    """Yield the state dict as it is, with a stripped prefix given back, and without what wrappers inside insert."""
    yield state
    for prefix in PREFIXES:
        yield {prefix + name: value for name, value in state.items()}
    renamings: tuple[Callable[[str], str], ...] = (_uncompiled, _unwrapped, _renewed)
    for renaming in renamings:
        renamed = {renaming(name): value for name, value in state.items()}
        if len(renamed) == len(state) and renamed.keys() != state.keys():
            yield renamed


def _uncompiled(name: str) -> str:
    return re.sub(r"(?<![^.])_orig_mod\.", "", name)


def _unwrapped(name: str) -> str:
    return re.sub(r"(?<![^.])module\.", "", _uncompiled(name))


def _renewed(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return _unwrapped(name.removesuffix(old) + new)
    return _unwrapped(name)


def _prefixes(tensors: State, state: State) -> Counter[str]:
    """Count, for each prefix, the names of the module that the state dict holds under it."""
    found: Counter[str] = Counter()
    for name in state:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        found.update(name[:start] for start in starts if name[start:] in tensors)
    return found


def _fitting(tensors: State, state: State) -> list[str]:
    """Return the prefixes under which every name is there; of several, those whose shapes fit best."""
    complete = [
        prefix
        for prefix in _prefixes(tensors, state)
        if not _missing(tensors, {name.removeprefix(prefix) for name in state if name.startswith(prefix)})
    ]
    rules: tuple[Matches, ...] = (_is_of_shape, _is_of_width)
    for matches in rules:
        fitting = [
            prefix
            for prefix in complete
            if all(matches(value, state[prefix + name]) for name, value in tensors.items() if prefix + name in state)
        ]
        if fitting:
            return fitting
    return complete[:1]


def _is_of_shape(expected: Tensor, found: Tensor) -> bool:
    return _is_lazy(expected) or expected.shape == found.shape


def _is_of_width(expected: Tensor, found: Tensor) -> bool:
    """Whether the shapes agree, or differ in the number of classes only."""
    return _is_lazy(expected) or (expected.ndim == found.ndim and expected.shape[1:] == found.shape[1:])


def _closest(tensors: State, state: State) -> str:
    found = _prefixes(tensors, state)
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")


def _under(prefix: str, state: State) -> Named:
    return Named(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)},
        prefix,
        tuple(name for name in state if not name.startswith(prefix)),
    )
