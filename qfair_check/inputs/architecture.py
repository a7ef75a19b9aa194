"""The name of an architecture becomes a module whose shapes fit a state dict."""

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.inputs.fit import named_as


def build_architecture(name: str, state: Mapping[str, Tensor], source: str = "the state dict") -> nn.Module:
    """Build the architecture that a state dict belongs to, with untrained weights.

    Parameters
    ----------
    name : str
        A torchvision classification model such as ``resnet18``, whose class count is read off the state
        dict, or ``package.module:factory``, called without arguments. The working directory is importable.
    state : mapping of str to Tensor
        The weights to be loaded.
    source : str
        Where they are from, for messages.

    Raises
    ------
    InputError
        If there is no such architecture, or its factory fails or returns no module, or if the state dict holds
        the weights of several.
    """
    if ":" in name:
        return _call_factory(name)
    return _torchvision(name, state, source)


def _torchvision(name: str, state: Mapping[str, Tensor], source: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; close: {', '.join(near)}" if near else ""
        raise InputError(
            f"there is no torchvision classification model {name!r}{hint}; give one of torchvision's names, "
            "or package.module:factory for your own"
        )
    builder = models.get_model_builder(name)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial weights, which are replaced
        template = _template(builder)
        classes = _class_count(template, named_as(template, state, source, name).state)
        module: nn.Module = builder(weights=None) if classes is None else builder(weights=None, num_classes=classes)
    return module


def _template(builder: Callable[..., nn.Module]) -> nn.Module:
    """Build without memory for weights where the architecture can be built so."""
    try:
        with torch.device("meta"):
            return builder(weights=None)
    except NotImplementedError:
        return builder(weights=None)


def _class_count(template: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the width of the last layer that has another width in the state dict; None if none has."""
    differing = [
        state[name].shape[0]
        for name, value in template.state_dict().items()
        if name in state
        and value.ndim
        and state[name].ndim == value.ndim
        and state[name].shape[0] != value.shape[0]
        and state[name].shape[1:] == value.shape[1:]
    ]
    return differing[-1] if differing else None


def _call_factory(name: str) -> nn.Module:
    factory = import_object(name)
    if not callable(factory):
        raise InputError(f"architecture {name} is a {type(factory).__name__}, not a function that builds a model")
    try:
        with torch.random.fork_rng(devices=[]):
            module = factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"architecture {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"architecture {name} returned a {type(module).__name__}, not a torch.nn.Module")
    return module


def check_named_by_file(name: str, path: str) -> None:
    """Refuse an architecture that a model file names and that can only do harm: the file is not trusted.

    A file may name what builds a network; it may not have functions of Python's own library called.

    Raises
    ------
    InputError
        Naming the file and the cure.
    """
    module = name.partition(":")[0]
    if ":" in name and module.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(
            f"{path} names the architecture {name}, which is no network but part of Python: do not trust this file, or "
            "pass --qfair-arch with the architecture it was trained with"
        )


def import_object(name: str) -> object:
    """Import ``package.module:attribute``, with the working directory on the path.

    Raises
    ------
    InputError
        If the module or the attribute is not there, or the module fails on import.
    """
    module_name, _, attribute = name.partition(":")
    make_working_directory_importable()
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise InputError(
            f"cannot import {module_name!r} of {name!r}: {type(error).__name__}: {error}; run from the folder that "
            "holds it, or install it"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module_name} has no {attribute!r}: name a function or class that it has")
        found = getattr(found, part)
    return found


def make_working_directory_importable() -> None:
    """Put the working directory last on the import path, as ``python -m`` has it first."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
