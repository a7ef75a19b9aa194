"""The model under audit: something that turns a batch into logits, and the files it is loaded from."""

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file
from qfair_check.inputs.architecture import build_architecture, check_named_by_file
from qfair_check.inputs.checkpoint import Checkpoint, read_checkpoint
from qfair_check.inputs.fit import check_fit, missing, named_as, place
from qfair_check.inputs.images import check_preprocessing
from qfair_check.inputs.model_bytes import with_sorted_metadata
from qfair_check.inputs.options import ModelOptions, Preprocessing, channel_values, class_names
from qfair_check.inputs.pretrained import is_pretrained, load_pretrained, pretrained_model
from qfair_check.inputs.quantized_file import PLAIN_FORMAT, Origin, StoredGrid
from qfair_check.inputs.scripted import ScriptedModule
from qfair_check.inputs.trusted_program import program_module

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
    notices : tuple of str
        What the user must see.
    grids : mapping of str to StoredGrid
        By name, the weights that lie on a grid of their own already, as `save_quantized` saved them.
    origin : Origin or None
        The model that it was made from, if its file tells.
    """

    forward: Callable[[Any], Any]
    source: str = "python"
    architecture: str | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    notices: tuple[str, ...] = ()
    grids: Mapping[str, StoredGrid] = field(default_factory=dict)
    origin: Origin | None = None

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
            dense = value.detach() if value.layout == torch.strided else value.detach().to_dense()
            plain = dense.cpu().contiguous()
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
    if isinstance(given, nn.Module):
        _check_parts(given)
    if callable(given):
        return Model(given)
    raise InputError(
        f"a model is a torch.nn.Module, or a callable from a batch to logits, not a {type(given).__name__}"
    )


def _check_parts(module: nn.Module) -> None:
    """Refuse what would fail later on, where a copy of the module is measured."""
    if isinstance(module, ScriptedModule):
        return
    scripted = next((name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted:
        raise InputError(
            f"{scripted} of the model is TorchScript inside a module of Python: give the module that it was made from, "
            "or script the whole model"
        )
    tensors = (*module.named_parameters(), *module.named_buffers())
    empty = next((name for name, value in tensors if value.is_meta), None)
    if empty:
        raise InputError(f"{empty} of the model has no values (device meta): load its weights first")


def load_model(path: str | os.PathLike[str], *, arch: str | None = None, trust_pickle: bool = False) -> Model:
    """Load a model file, or the embedded demo for the path ``demo``.

    Parameters
    ----------
    path : path-like
        A ``.safetensors``, ``.pt``, ``.pth``, ``.pt2``, ``.ckpt`` or ``.bin`` file, the index of a sharded one, or a
        folder as ``save_pretrained`` of Hugging Face writes it.
    arch : str, optional
        torchvision's name or ``package.module:factory``; needed unless the file names it (`save_model`),
        holds a whole module, or is a folder of a model that transformers knows.
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
    return _built(options, _read(options))


def read_reference(options: ModelOptions, model: Model) -> Model:
    """Load the model that another was made from; it has the same architecture unless its file names one.

    Raises
    ------
    UntrustedPickleError, InputError
        As `load_model`.
    """
    checkpoint = _read(options)
    arch = None if checkpoint.is_described else options.arch or model.architecture
    return _built(replace(options, arch=arch), checkpoint)


def _read(options: ModelOptions) -> Checkpoint:
    demo = Path(__file__).parents[1] / "demo" / "digits.safetensors"
    return read_checkpoint(demo if options.path == DEMO else Path(options.path), trust_pickle=options.trust_pickle)


def _built(options: ModelOptions, checkpoint: Checkpoint) -> Model:
    if checkpoint.architecture and not options.arch:
        check_named_by_file(checkpoint.architecture, options.path)
    architecture = options.arch or checkpoint.architecture
    module, notices = checkpoint.module, checkpoint.notices
    if module is not None and options.arch:
        architecture = None
        notices = (*notices, f"{options.path} holds a whole module: --qfair-arch {options.arch} is left out")
    if module is None and architecture is None and checkpoint.config is not None:
        module, architecture = pretrained_model(checkpoint.config, checkpoint.state, options.path)
    if module is None:
        if architecture is None:
            raise InputError(
                f"{options.path} holds weights alone and does not name its architecture: pass --qfair-arch with "
                "torchvision's name (such as resnet18) or package.module:factory"
            )
        module, left_out = _filled(checkpoint, architecture, options.path)
        notices = (*notices, *left_out)
    return Model(
        module.eval(),
        options.path,
        architecture,
        checkpoint.classes,
        checkpoint.preprocessing,
        notices,
        checkpoint.grids,
        checkpoint.origin,
    )


def save_model(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    arch: str,
    classes: Iterable[str] = (),
    image_size: tuple[int, int] | None = None,
    mean: Iterable[float] = (),
    std: Iterable[float] = (),
    transforms: str | None = None,
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
    transforms : str, optional
        Name of torchvision weights whose transforms prepare the images, in place of the other three.

    Raises
    ------
    OptionError
        If the path has another suffix, or the preprocessing makes no sense.
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
    target = model_target(path)
    metadata = {"qfair_check": PLAIN_FORMAT} | model_metadata(arch, classes, image_size, mean, std, transforms)
    state = distinct_state(module)
    check_fit(build_architecture(arch, state), state, f"the model to be saved as {target}", arch)
    write_model_file(target, state, metadata)


def model_target(path: str | os.PathLike[str]) -> Path:
    """Return where a model file goes.

    Raises
    ------
    OptionError
        If it has another suffix.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise OptionError(f"{target} must end in .safetensors")
    return target


def model_metadata(
    arch: str,
    classes: Iterable[str],
    image_size: tuple[int, int] | None,
    mean: Iterable[float],
    std: Iterable[float],
    transforms: str | None,
) -> dict[str, str]:
    """Return what a model file says about itself; parameters as those of `save_model`."""
    preprocessing = _preprocessing(image_size, mean, std, transforms)
    return {
        "architecture": arch,
        "classes": json.dumps(class_names(classes)),
        "preprocessing": json.dumps(None if preprocessing == Preprocessing() else asdict(preprocessing)),
    }


def write_model_file(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata; a reader sees the old file or the new one.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    try:
        replace_file(target, with_sorted_metadata(save(dict(tensors), dict(metadata))))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _preprocessing(
    image_size: tuple[int, int] | None, mean: object, std: object, transforms: str | None
) -> Preprocessing:
    size: tuple[int, int] | None = None
    if image_size is not None:
        try:
            height, width = map(operator.index, image_size)
        except (TypeError, ValueError) as error:
            raise OptionError(f"image_size is {image_size!r}: give (height, width) in whole pixels") from error
        size = height, width
    used = Preprocessing(size, channel_values("mean", mean), channel_values("std", std), transforms)
    return check_preprocessing(used, channels=3)


def distinct_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with each tied tensor under its first name only."""
    kept: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} of the model is a {type(value).__name__}, and a model file holds tensors only")
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise InputError(f"{name} has no shape yet: run one batch through the model first")
        if not value.numel() or place(value) not in seen:
            kept[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        seen.add(place(value))
    return kept


def _filled(checkpoint: Checkpoint, architecture: str, source: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the architecture with the weights of a checkpoint, and what must be said about it."""
    module = build_architecture(architecture, checkpoint.state, source)
    named = named_as(module, checkpoint.state, source, architecture)
    where = f"{source} under {named.prefix}" if named.prefix else source
    if is_pretrained(module) and missing(module, named.state):
        loaded = load_pretrained(type(module), module.config, named.state, where, architecture)
        return loaded, named.notices(source)
    check_fit(module, named.state, where, architecture)
    try:
        module.load_state_dict(named.state, strict=False)
    except (RuntimeError, NotImplementedError) as error:  # sparse tensors, tensors without values
        raise InputError(f"the weights of {source} cannot be used: {error}") from error
    return module, named.notices(source)
