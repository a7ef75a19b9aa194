"""What an audit of files depends on, as one hash, without loading model or data."""

import csv
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import qfair_check
from qfair_check.inputs.options import IMAGE_COLUMNS, DataOptions, ModelOptions
from qfair_check.inputs.paths import is_factory
from qfair_check.option_table import DEMO
from qfair_check.options import MeasureOptions
from qfair_check.precision import AS_IS

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow", "pandas", "safetensors", "pyhessian")
_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "KMP_AFFINITY", "ATEN_CPU_CAPABILITY")
_MODELS, _TABLES, _ARRAYS = (".safetensors", ".pt", ".pth"), (".csv", ".parquet"), (".npz", ".safetensors")
_BLOCK = 2**20


def audit_key(
    model: ModelOptions, data: DataOptions, measuring: MeasureOptions, *, by_content: bool = False
) -> str | None:
    """Return a hash that two runs share only if they would measure the same; None where that cannot be told.

    It covers the bytes of the model's file and of the data's, every image by size and time of change, or by its bytes,
    all options, the versions of what computes and this package's own code, and what decides about threads. It cannot be
    told where code of the user takes part: factories and architectures of ``package.module:factory``, trusted pickles,
    exported programs and Hugging Face folders, nor for ``asis``, whose reference lies elsewhere, nor off the CPU.

    Parameters
    ----------
    model : ModelOptions
    data : DataOptions
    measuring : MeasureOptions
    by_content : bool
        Whether images count by their bytes.
    """
    if measuring.precisions == (AS_IS,) or measuring.reference or measuring.device != "cpu" or model.trust_pickle:
        return None
    try:
        if not (_is_plain_model(model) and _is_plain_data(data)):
            return None
        digest = hashlib.sha256()
        for part in (repr(model), repr(data), repr(measuring), *_surroundings()):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        for path in (model.path, data.path):
            if path != DEMO and Path(path).is_file():
                digest.update(_sha256(Path(path)) + b"\0")
        for file in _images(data):
            digest.update(_identity(file, by_content) + b"\0")
    except (OSError, ValueError, csv.Error):
        return None
    return digest.hexdigest()


def _is_plain_model(model: ModelOptions) -> bool:
    """Whether nothing but weights and an architecture of torchvision's, or the demo's, makes the model."""
    if model.path == DEMO:
        return True
    path = Path(model.path)
    if path.suffix.lower() not in _MODELS or not path.is_file():
        return False
    named = model.arch or (_architecture_in(path) if path.suffix.lower() == ".safetensors" else None)
    return bool(named) and ":" not in str(named)


def _architecture_in(path: Path) -> str | None:
    """Return what the header of a safetensors file says of its architecture."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100 * _BLOCK:
            return None
        header = json.loads(file.read(length))
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    named = metadata.get("architecture") if isinstance(metadata, dict) else None
    return named if isinstance(named, str) else None


def _is_plain_data(data: DataOptions) -> bool:
    path = Path(data.path)
    is_file = path.is_file() and path.suffix.lower() in _TABLES + _ARRAYS
    return data.path == DEMO or (not is_factory(data.path) and (is_file or path.is_dir()))


def _surroundings() -> Iterator[str]:
    """Yield what else the numbers depend on."""
    yield platform.platform()
    yield platform.python_version()
    yield str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    for setting in _SETTINGS:
        yield f"{setting}={os.environ.get(setting)}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} is not there"
    yield qfair_check.__version__
    package_folder = Path(qfair_check.__file__).parent
    for file in sorted(package_folder.rglob("*")):
        if file.suffix != ".pyc" and file.is_file():
            found = file.stat()
            yield f"{file.relative_to(package_folder)} {found.st_size} {found.st_mtime_ns}"


def _images(data: DataOptions) -> Iterable[str]:
    """Return every image that the data may name: those of other splits too."""
    path = Path(data.path)
    if data.path == DEMO or path.suffix.lower() in _ARRAYS:
        return ()
    if path.is_dir():
        folders = os.walk(path.absolute(), followlinks=True)
        return sorted(f"{folder}/{name}" for folder, _, names in folders for name in names)
    cells = _csv_cells(path) if path.suffix.lower() == ".csv" else _parquet_cells(path)
    folder = os.fspath(path.absolute().parent)
    return [os.path.join(folder, cell) for cell in cells]  # noqa: PTH118 (Path is slow on a million names)


def _csv_cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True, skipinitialspace=True)
        columns = [place for place, name in enumerate(next(rows, [])) if name.strip() in IMAGE_COLUMNS]
        return [row[place].strip() for row in rows for place in columns if place < len(row)]


def _parquet_cells(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = [name for name in pq.read_schema(path).names if name.strip() in IMAGE_COLUMNS]
        table = pq.read_table(path, columns=columns)
        return [str(cell) for name in columns for cell in table.column(name).to_pylist()]
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _identity(path: str, by_content: bool) -> bytes:
    """Return what tells a file from another one at the same place."""
    try:
        found = os.stat(path)  # noqa: PTH116 (Path is slow on a million names)
    except FileNotFoundError:
        return os.fsencode(f"{path} is not there")
    told = _sha256(Path(path)) if by_content else f"{found.st_size} {found.st_mtime_ns}".encode()
    return os.fsencode(path) + b" " + told


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
