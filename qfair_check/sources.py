"""Models, data and audits for the tests of one pytest run: loaded once, measured once, shared by workers."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from qfair_check.errors import OptionError, QFairError
from qfair_check.options import MeasureOptions, data_options, measure_options, model_options
from qfair_check.plugin_options import SHARED_FOLDER, audit_path, lookup, shared_folder_key
from qfair_check.precision import AS_IS, Precision
from qfair_check.record import Audit

if TYPE_CHECKING:
    from torch import nn

    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model
    from qfair_check.measure.one_pass import Progress

NO_MODEL = "no model is given: pass --qfair-model FILE, or override the fixture qfair_model in a conftest.py"
NO_DATA = "no grouped data is given: pass --qfair-data FILE, or override the fixture qfair_data in a conftest.py"

_model = pytest.StashKey["Model"]()
_reference = pytest.StashKey["dict[str | None, Model | Audit | None]"]()
_data = pytest.StashKey[dict[object, "GroupedData | LabelledData"]]()
_audits = pytest.StashKey[dict[str, list[Audit]]]()


@contextmanager
def without_traceback() -> Iterator[None]:
    """Turn an error of this package into a failed fixture that shows its message alone."""
    try:
        yield
    except QFairError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def load_configured_model(config: pytest.Config) -> "Model":
    """Load the model that the options name, once for each run."""
    from qfair_check.inputs.model import read_model

    if _model not in config.stash:
        with without_traceback():
            options = model_options(lookup(config))
            if options is None:
                raise OptionError(NO_MODEL)
            config.stash[_model] = read_model(options)
    return config.stash[_model]


def load_configured_reference(config: pytest.Config, model: "Model") -> "Model | Audit | None":
    """Load what ``--qfair-reference`` names, once for each architecture; None without it."""
    from qfair_check.measure.reference import read_reference_file

    options = measure_options(lookup(config)).reference
    if options is None:
        return None
    held = config.stash.setdefault(_reference, {})
    if model.architecture not in held:
        held[model.architecture] = read_reference_file(options, model)
    return held[model.architecture]


def load_configured_data(config: pytest.Config, model: object) -> "GroupedData | LabelledData":
    """Load the data that the options name, once for all models that name the same classes and preprocessing."""
    from qfair_check.inputs.data import read_data
    from qfair_check.inputs.model import as_model

    with without_traceback():
        options = data_options(lookup(config))
        if options is None:
            raise OptionError(NO_DATA)
        known = as_model(model)
        held = config.stash.setdefault(_data, {})
        key = known.classes, known.preprocessing
        if key not in held:
            held[key] = read_data(options, model_classes=known.classes, model_preprocessing=known.preprocessing)
    return held[key]


def saved_audit(config: pytest.Config) -> Audit | None:
    """Return the audit that ``--qfair-audit`` names, if it does."""
    path = audit_path(config)
    return Audit.load(path) if path else None


def audit_for(request: pytest.FixtureRequest, precisions: Sequence[Precision]) -> Audit:
    """Return an audit of the model and data that this test sees, at these precisions at least."""
    with without_traceback():
        saved = saved_audit(request.config)
        if saved is not None:
            for precision in precisions:
                saved.at(precision)
            return saved
        from qfair_check.inputs.data import as_samples
        from qfair_check.inputs.model import as_model

        model = as_model(request.getfixturevalue("qfair_model"))
        data = as_samples(request.getfixturevalue("qfair_data"))
        return measured_audit(request.config, model, data, precisions)


def quantized_for(request: pytest.FixtureRequest, precision: Precision) -> "nn.Module":
    """Return a new module: the model that this test sees, quantized."""
    with without_traceback():
        if audit_path(request.config):
            raise OptionError("a saved audit holds no weights: qfair_quantized needs --qfair-model, not --qfair-audit")
        from qfair_check.inputs.data import as_samples
        from qfair_check.inputs.model import as_model
        from qfair_check.measure.run import quantized_for_audit

        model = as_model(request.getfixturevalue("qfair_model"))
        options = measure_options(lookup(request.config))
        data = as_samples(request.getfixturevalue("qfair_data")) if options.allocation.first_last else None
        return quantized_for_audit(model, precision, options.scheme, options.allocation, data, seed=options.seed)


def measured_audit(
    config: pytest.Config,
    model: "Model",
    data: "GroupedData | LabelledData",
    precisions: Sequence[Precision],
    progress: "Progress | None" = None,
) -> Audit:
    """Return an audit at these precisions at least, measured unless this run has it already.

    Audits are known by the content of model and data, whichever fixture gave them. Workers of pytest-xdist
    share them through a folder, under a lock.
    """
    options = measure_options(lookup(config))
    reference = load_configured_reference(config, model)
    key = _key(model, data, options, reference)
    held = config.stash.setdefault(_audits, {}).setdefault(key, [])
    found = _covering(held, precisions)
    if found is None:
        folder = shared_folder(config)
        if folder is None:
            found = _measure(config, model, data, precisions, options, reference, progress)
        else:
            with FileLock(folder / f"{key}.lock"):
                found = _covering(map(Audit.load, sorted(folder.glob(f"{key}-*.json"))), precisions)
                if found is None:
                    found = _measure(config, model, data, precisions, options, reference, progress)
                    found.save(folder / f"{key}-{'-'.join(map(str, precisions))}.json")
        held.append(found)
    return found


def shared_folder(config: pytest.Config) -> Path | None:
    """Return the folder that all processes of this run share, if there are several."""
    if hasattr(config, "workerinput"):
        given = config.workerinput.get(SHARED_FOLDER)
        return Path(given) if given else None
    return config.stash.get(shared_folder_key, None)


def _measure(
    config: pytest.Config,
    model: "Model",
    data: "GroupedData | LabelledData",
    precisions: Sequence[Precision],
    options: MeasureOptions,
    reference: "Model | Audit | None",
    progress: "Progress | None",
) -> Audit:
    from qfair_check.measure.run import audit

    return audit(
        model,
        data,
        precisions,
        scheme=options.scheme,
        allocation=options.allocation,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        seed=options.seed,
        curvature=options.curvature,
        bad_sample=options.bad_sample,
        reference=reference if tuple(precisions) == (AS_IS,) else None,
        command=("pytest", *map(str, config.invocation_params.args)),
        progress=progress,
    )


def _covering(audits: "Iterator[Audit] | list[Audit] | map[Audit]", precisions: Sequence[Precision]) -> Audit | None:
    names = {precision.name for precision in precisions}
    return next((audit for audit in audits if names <= {result.precision for result in audit.precisions}), None)


def _key(
    model: "Model",
    data: "GroupedData | LabelledData",
    options: MeasureOptions,
    reference: "Model | Audit | None",
) -> str:
    from qfair_check.fingerprint import fingerprint

    parts = (
        model.source,
        str(model.architecture),
        ",".join(model.grids),
        data.key,
        options.scheme,
        str(options.allocation),
        str(options.seed),
        options.device,
        str(options.curvature),
        options.bad_sample,
    )
    digest = hashlib.sha256("\0".join(parts).encode())
    digest.update(fingerprint(model.forward))
    if isinstance(reference, Audit):
        digest.update(reference.measured_json())
    elif reference is not None:
        digest.update(fingerprint(reference.forward))
    return digest.hexdigest()[:32]
