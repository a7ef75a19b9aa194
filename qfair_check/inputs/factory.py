"""A function that the user names, ``package.module:factory``, gives a data set."""

import hashlib
from collections.abc import Mapping

import torch
from torch.utils.data import Dataset

from qfair_check.errors import InputError, OptionError, QFairError
from qfair_check.inputs.architecture import import_object
from qfair_check.inputs.arrays import arrays_in, grouped_data
from qfair_check.inputs.grouped import GroupedData
from qfair_check.inputs.labelled import LabelledData, labelled
from qfair_check.inputs.options import DataOptions


def read_factory(options: DataOptions, model_classes: tuple[str, ...]) -> GroupedData | LabelledData:
    """Call a factory without arguments and take what it gives: a torch Dataset, or what `grouped_data` takes.

    torch's random numbers start at seed 0 in it, so that a random split is the same each time.

    Raises
    ------
    InputError
        If there is no such function, it fails, or it gives something else.
    OptionError
        If an option is for files.
    """
    for_files = {
        "split": options.split,
        "features": options.features,
        "image-size": options.image_size,
        "mean": options.mean,
        "std": options.std,
        "transforms": options.transforms,
        "bin": options.bins,
    }
    for_keys = {"label": options.label, "group-by": options.group_by}
    _refuse(
        for_files,
        f"is for files, and {options.path} is a function that gives samples as the model takes them: let it do this",
    )
    factory = import_object(options.path)
    if not callable(factory):
        raise InputError(f"{options.path} is a {type(factory).__name__}, not a function that gives a data set")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            given = factory()
    except QFairError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"{options.path} failed: {type(error).__name__}: {error}") from error
    if isinstance(given, GroupedData | LabelledData):
        idle = {"classes": options.classes, **for_keys}
        _refuse(idle, f"makes no sense here: {options.path} gives grouped data, which says this itself; leave it out")
        return given
    arrays = arrays_in(given)
    if arrays is not None and not isinstance(arrays[0], Dataset):
        _refuse(for_keys, f"makes no sense here: {options.path} gives arrays, which have no keys; leave it out")
        return grouped_data(*arrays, classes=options.classes or model_classes)
    return labelled(
        given,
        options.path,
        hashlib.sha256(repr(options).encode()).hexdigest(),
        label=options.label,
        group_by=options.group_by,
        classes=options.classes,
        model_classes=model_classes,
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value:
            raise OptionError(f"--qfair-{name} {why}")
