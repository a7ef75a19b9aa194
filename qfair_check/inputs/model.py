"""The model under audit: something that turns a batch into logits, and the files it is loaded from."""

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file
from qfair_check.inputs.architecture import build_architecture, check_named_by_file
from qfair_check.inputs.checkpoint import PREFIXES, Checkpoint, read_checkpoint
from qfair_check.inputs.images import check_preprocessing
from qfair_check.inputs.options import ModelOptions, Preprocessing, channel_values, class_names
from qfair_check.inputs.scripted import ScriptedModule
from qfair_check.inputs.trusted_program import program_module
from qfair_check.inputs.wording import listed

DEMO = "demo"


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model and what is known about it.

    Parameters
    ----------
    forward : callable
        Turns a batch of inputs into logits of shape (samples, classes). Weights and gradients are there
        only if it is a `torch.nn.Module`.
    source : str
        The file it came from, or "python".
    architecture : str or None
        torchvision's name, or ``package.module:factory``.
    classes : tuple of str
        Names in the order of the logits; empty if unknown.
    preprocessing : Preprocessing or None
        How its training data was prepared, if known.
    """

    forward: Callable[[Any], Any]
    source: str = "python"
    architecture: str | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    @property
    def module(self) -> nn.Module | None:
        """The torch module, or None for a plain callable."""
        return self.forward if isinstance(self.forward, nn.Module) else None

    @property
    def sha256(self) -> str | None:
        """Hash of every name, shape, type and value of the state dict; None for a plain callable."""
        return None if self.module is None else state_sha256(self.module.state_dict())


def state_sha256(state: Mapping[str, Any]) -> str:
    """Return the sha256 of a state dict: of each name, type, shape and value, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
        else:
            digest.update(f"{name}\0{value!r}\0".encode())
    return digest.hexdigest()


def as_model(given: object) -> Model:
    """Take a `Model`, a `torch.nn.Module`, a `torch.export.ExportedProgram` or a plain callable.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(given, Model):
        return given
    if isinstance(given, torch.export.ExportedProgram):
        return Model(program_module(given))
    if isinstance(given, torch.jit.ScriptModule):
        return Model(ScriptedModule.copy_of(given))
    if isinstance(given, fx.GraphModule) and "eval" in given.__dict__:
        raise InputError(
            "the model is the module of an exported program, which has no eval mode: give the program itself "
            "(torch.export.ExportedProgram)"
        )
    if isinstance(given, nn.Module) or callable(given):
        return Model(given)
    raise InputError(
        f"a model is a torch.nn.Module, or a callable from a batch to logits, not a {type(given).__name__}"
    )


def load_model(path: str | os.PathLike[str], *, arch: str | None = None, trust_pickle: bool = False) -> Model:
    """Load a model file, or the embedded demo for the path ``demo``.

    Parameters
    ----------
    path : path-like
        A ``.safetensors``, ``.pt``, ``.pth`` or ``.pt2`` file.
    arch : str, optional
        torchvision's name or ``package.module:factory``; needed unless the file names it (`save_model`) or
        holds a whole module.
    trust_pickle : bool
        Whether code in the file may run.

    Raises
    ------
    UntrustedPickleError
        If loading would run code from the file and it is not trusted.
    InputError
        If the file cannot be read, or does not fit its architecture.

    Examples
    --------
    >>> load_model("demo").classes[:3]
    ('zero', 'one', 'two')
    """
    return read_model(ModelOptions(os.fspath(path), arch, trust_pickle))


def read_model(options: ModelOptions) -> Model:
    """Load the model that the options name; as `load_model`."""
    if options.path == DEMO:
        path = Path(__file__).parents[1] / "demo" / "digits.safetensors"
    else:
        path = Path(options.path)
    checkpoint = read_checkpoint(path, trust_pickle=options.trust_pickle)
    if checkpoint.architecture and not options.arch:
        check_named_by_file(checkpoint.architecture, options.path)
    architecture = options.arch or checkpoint.architecture
    module = checkpoint.module or _filled(checkpoint, architecture, options.path)
    return Model(module.eval(), options.path, architecture, checkpoint.classes, checkpoint.preprocessing)


def save_model(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    arch: str,
    classes: Iterable[str] = (),
    image_size: tuple[int, int] | None = None,
    mean: Iterable[float] = (),
    std: Iterable[float] = (),
) -> None:
    """Save a model as a self-describing ``.safetensors`` file, which needs no other option to be audited.

    Parameters
    ----------
    module : torch.nn.Module
        Its state dict is saved; tied weights are saved once.
    path : path-like
        Ends in ``.safetensors``.
    arch : str
        torchvision's name, or ``package.module:factory``.
    classes : iterable of str
        Label names in the order of the logits.
    image_size, mean, std
        How images were prepared in training; height and width in pixels, values for RGB in [0, 1].

    Raises
    ------
    OptionError
        If the path has another suffix.
    InputError
        If the architecture does not build a module with these weights, or the file cannot be written.

    Examples
    --------
    >>> import tempfile, torchvision
    >>> net = torchvision.models.squeezenet1_1(num_classes=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(net, f"{folder}/net.safetensors", arch="squeezenet1_1", classes=["cat", "dog"])
    ...     load_model(f"{folder}/net.safetensors").classes
    ('cat', 'dog')
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise OptionError(f"{target} must end in .safetensors")
    preprocessing = _preprocessing(image_size, mean, std)
    names = class_names(classes)
    state = _distinct(module)
    _check_fit(build_architecture(arch, state), state, f"the model to be saved as {target}", arch)
    metadata = {
        "qfair_check": "1",
        "architecture": arch,
        "classes": json.dumps(names),
        "preprocessing": json.dumps(None if preprocessing == Preprocessing() else asdict(preprocessing)),
    }
    try:
        replace_file(target, save(state, metadata))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _preprocessing(image_size: tuple[int, int] | None, mean: object, std: object) -> Preprocessing:
    size: tuple[int, int] | None = None
    if image_size is not None:
        try:
            height, width = map(operator.index, image_size)
        except (TypeError, ValueError) as error:
            raise OptionError(f"image_size is {image_size!r}: give (height, width) in whole pixels") from error
        size = height, width
    used = Preprocessing(size, channel_values("mean", mean), channel_values("std", std))
    return check_preprocessing(used, channels=3)


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _distinct(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with each tied tensor under its first name only."""
    kept: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} of the model is a {type(value).__name__}, and a model file holds tensors only")
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise InputError(f"{name} has no shape yet: run one batch through the model first")
        if not value.numel() or _storage(value) not in seen:
            kept[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        seen.add(_storage(value))
    return kept


def _storage(value: Tensor) -> tuple[object, ...]:
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _filled(checkpoint: Checkpoint, architecture: str | None, source: str) -> nn.Module:
    if architecture is None:
        raise InputError(
            f"{source} holds weights alone and does not name its architecture: pass --qfair-arch with "
            "torchvision's name (such as resnet18) or package.module:factory"
        )
    module = build_architecture(architecture, checkpoint.state)
    state = _named_as(module, checkpoint.state)
    _check_fit(module, state, source, architecture)
    try:
        module.load_state_dict(state, strict=False)
    except (RuntimeError, NotImplementedError) as error:  # sparse tensors, tensors without values
        raise InputError(f"the weights of {source} cannot be used: {error}") from error
    return module


def _named_as(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give a prefix back that was stripped and belongs to the names of this very module."""
    expected = module.state_dict().keys()
    for prefix in ("", *PREFIXES):
        renamed = {prefix + name: value for name, value in state.items()}
        if renamed.keys() & expected:
            return renamed
    return state


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str, architecture: str) -> None:
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if any(isinstance(value, UninitializedParameter | UninitializedBuffer) for value in expected.values()):
        raise InputError(f"the architecture {architecture} has lazy layers, whose shapes are not known: give them")
    present = {_storage(expected[name]) for name in state.keys() & expected.keys() if expected[name].numel()}
    faults = {
        "missing": [
            name
            for name in expected
            if name not in state
            and _storage(expected[name]) not in present
            and not name.endswith(".num_batches_tracked")  # older checkpoints lack it, and evaluation ignores it
        ],
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
    }
    told = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in faults.items() if names)
    if told:
        raise InputError(
            f"{source} does not fit the architecture {architecture}: {told}; name the one it was trained with"
        )
