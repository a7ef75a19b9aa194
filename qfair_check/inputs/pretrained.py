"""A model of Hugging Face transformers from its configuration and its weights, without a download."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.inputs.fit import refuse_faults

_PACKAGE = "transformers"
# What would fetch code, or choose the arithmetic of another machine.
_LEFT_OUT = {
    "auto_map",
    "trust_remote_code",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "experts_implementation",
    "_experts_implementation",
    "dtype",
    "torch_dtype",
}


def pretrained_model(config: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> tuple[nn.Module, str]:
    """Build the class of transformers that a configuration names, and load its weights.

    Code that the folder brings is never run, whatever the configuration says.

    Parameters
    ----------
    config : mapping
        Content of ``config.json``.
    state : mapping of str to Tensor
    source : str
        For messages.

    Returns
    -------
    (torch.nn.Module, str)
        The model, and its class as ``transformers:Name``.

    Raises
    ------
    InputError
        If transformers is not installed, has no such class, or cannot build it, or if the weights do not fit.
    """
    name = _named(config, source)
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{source} is a {name} of Hugging Face, and transformers cannot be imported ({error}): install it, or "
            "pass --qfair-arch with package.module:factory"
        ) from error
    kind = _class(transformers, name, source)
    if "quantization_config" in config:
        raise InputError(f"the weights of {source} are quantized already: give the model as it was trained")
    with _quiet_and_offline():
        try:
            settings = kind.config_class.from_dict(_cleaned(dict(config)))
        except Exception as error:  # a configuration may hold anything
            raise InputError(f"transformers cannot use the configuration of {source}: {_reason(error)}") from error
    architecture = f"{_PACKAGE}:{name}"
    return load_pretrained(kind, settings, state, source, architecture), architecture


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module is of a class of transformers itself, whose files may use names of their own."""
    library: Any = sys.modules.get(_PACKAGE)
    return library is not None and _is_own(library, type(module))


def load_pretrained(kind: Any, settings: Any, state: Mapping[str, Tensor], source: str, architecture: str) -> nn.Module:
    """Build a class of transformers and load its weights, which its files hold under names of their own.

    Parameters
    ----------
    kind : type
        A `PreTrainedModel` of transformers.
    settings : transformers.PretrainedConfig
    state : mapping of str to Tensor
    source, architecture : str
        For messages.

    Raises
    ------
    InputError
        If transformers cannot build or load it, or if the weights do not fit.
    """
    floats = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    try:
        with _quiet_and_offline(), torch.random.fork_rng(devices=[]):
            module, told = kind.from_pretrained(
                None, config=settings, state_dict=floats, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # the code of a model class may raise anything
        raise InputError(f"transformers cannot load {source} as {kind.__name__}: {_reason(error)}") from error
    refuse_faults(
        {
            "missing": sorted(told["missing_keys"]),
            "unexpected": sorted(told["unexpected_keys"]),
            "of another shape": sorted(map(_mismatch, told["mismatched_keys"])),
        },
        source,
        architecture,
    )
    loaded: nn.Module = module
    return loaded


def _mismatch(told: Any) -> str:
    """Write a mismatch, of which transformers tells the shapes since its version 5."""
    if isinstance(told, str):
        return told
    name, found, expected = told
    return f"{name} {tuple(found)}, not {tuple(expected)}"


def _named(config: Mapping[str, Any], source: str) -> str:
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise InputError(
            f"the configuration of {source} names {'several classes' if named else 'no class'} under architectures: "
            "pass --qfair-arch with package.module:factory"
        )
    return named[0]


def _class(library: Any, name: str, source: str) -> Any:
    try:
        found: Any = getattr(library, name, None)
    except Exception as error:  # it imports the module of the class, which may lack a library of its own
        raise InputError(f"transformers cannot import {name}, named by {source}: {_reason(error)}") from error
    if not _is_own(library, found):
        raise InputError(
            f"{source} names the architecture {name}, which is no model of transformers {library.__version__}: install "
            "a version that has it, or pass --qfair-arch with package.module:factory; code in the folder is not run"
        )
    return found


def _is_own(library: Any, kind: object) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, library.PreTrainedModel)
        and kind.__module__.startswith(f"{_PACKAGE}.models.")
    )


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(inner) for key, inner in value.items() if key not in _LEFT_OUT}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Keep transformers from writing to the terminal and from asking its hub, and leave its settings as they were."""
    from huggingface_hub import constants
    from transformers.utils import logging

    verbosity, offline = logging.get_verbosity(), constants.HF_HUB_OFFLINE
    shows_progress = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
