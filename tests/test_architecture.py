"""Which module may import which: data flows one way, and what every pytest run loads stays light."""

import ast
import sys
from pathlib import Path

import pytest

import qfair_check

PACKAGE = Path(qfair_check.__file__).parent
TORCH = {"torch", "torchvision", "safetensors", "PIL", "scipy"}

# Each layer may import itself, the layers above it in this list, and the third parties that it names.
LAYERS = [
    ("errors", set()),
    ("files", set()),
    ("termination", set()),
    ("precision", set()),
    ("integer_grid", set()),
    ("record", {"msgspec", "numpy", "pandas"}),
    ("demo.network", {"torch"}),
    ("inputs", TORCH | {"numpy", "msgspec", "pyarrow", "transformers", "huggingface_hub"}),
    ("quantize", {"torch", "numpy", "scipy"}),
    ("measure", {"torch", "numpy", "pyhessian"}),
    ("judge", {"numpy", "scipy", "wcwidth"}),
    ("remedy", {"torch", "numpy"}),
    ("report", {"jinja2", "markupsafe", "matplotlib", "numpy", "wcwidth"}),
    ("demo.train", {"torch", "numpy", "safetensors", "sklearn"}),
    ("option_table", set()),
    ("options", set()),
    ("audit_key", {"pyarrow"}),
    ("overwriting", set()),
    ("baseline_options", set()),
    ("progress", {"tqdm"}),
    ("console", set()),
    ("commands", set()),
    ("remediate_options", set()),
    ("remediate_command", set()),
    ("remedy_text", set()),
    ("cli", set()),
    ("summary_file", set()),
    ("plugin_options", {"pytest", "_pytest"}),
    ("overrides", {"pytest", "_pytest"}),
    ("fingerprint", {"torch"}),
    ("sources", {"pytest", "filelock"}),
    ("fixture", set()),
    ("gate_header", set()),
    ("gate_items", {"pytest", "_pytest"}),
    ("gate_baseline", {"pytest"}),
    ("gate_cache", {"pytest"}),
    ("gate", {"pytest"}),
    ("plugin_remedy", {"pytest", "_pytest"}),
    ("html_extras", {"pytest"}),
    ("plugin", {"pytest"}),
]
NAMES = [name for name, _ in LAYERS]
# The record in other shapes, its parts, and what follows from it: one layer.
OF_RECORD = {
    "audit_file",
    "audit_cache",
    "audit_frame",
    "baseline_file",
    "baseline_record",
    "contradictions",
    "curvature_record",
    "gaps",
    "outcome_rows",
    "reference_record",
    "training_record",
}
MEASURING = {"inputs", "quantize", "measure", "remedy", "demo.network"}
NOT_FOR = {"judge": MEASURING, "report": MEASURING, "inputs": {"record"}}  # though they lie above

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.stem not in ("__init__", "__main__")]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def layer_of(module: str) -> str:
    place = "record" if module in OF_RECORD else module
    return next(name for name in NAMES if place == name or place.startswith(f"{name}."))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> set[str]:
    """Return what a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {id(inner) for node in ast.walk(tree) if is_for_types(node) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_what_lies_above_it(path):
    layer = layer_of(module_name(path))
    allowed = set(NAMES[: NAMES.index(layer) + 1]) - NOT_FOR.get(layer, set())
    own = {name.removeprefix("qfair_check.") for name in imports(path) if name.startswith("qfair_check.")}
    assert {layer_of(name) for name in own} <= allowed


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_uses_only_the_third_parties_of_its_layer(path):
    layer = layer_of(module_name(path))
    foreign = {name.partition(".")[0] for name in imports(path)} - {"qfair_check"} - sys.stdlib_module_names
    assert foreign <= dict(LAYERS)[layer]


def test_every_layer_is_there():
    assert {layer_of(module_name(path)) for path in FILES} == set(NAMES)


def test_records_are_frozen_and_slotted():
    loose = {
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if "dataclass" in (told := ast.unparse(decorator)) and not ("frozen=True" in told and "slots=True" in told)
    }
    assert loose == {"_Trace"}  # what training remembers, and changes in place


def test_every_parameter_may_be_given_by_name():
    nameless = {
        f"{path.name}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.arguments) and node.posonlyargs
        for node in node.posonlyargs[:1]
    }
    assert nameless == set()


def test_files_stay_small():
    long = {path.name: lines for path in FILES if (lines := len(path.read_text().splitlines())) > 420}
    assert long == {}
