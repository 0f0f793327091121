"""Who may import whom, and that importing the package is quick."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pseudoseg_tf

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pseudoseg_tf"

# From the bottom to the top: a module imports from its own layer and those below. A name stands for a module
# or for a whole subpackage.
LAYERS = [
    ["__init__", "_keras", "config", "errors", "interruption", "progress"],
    ["cost", "experiments", "files", "run_lock", "summaries", "workers", "data.specs"],
    ["records"],
    ["config_io", "data", "nn"],
    [
        "aspp_reach",
        "cpu_speed",
        "single_image",
        "checkpoint_files",
        "losses",
        "metrics",
        "optim",
        "presets",
        "pseudo_label",
        "visualize",
        "page",
        "check_page",
        "curves",
        "model_summary",
        "batch_picture",
        "config_reference",
        "input_server",
    ],
    [
        "accumulation",
        "checkpoint",
        "exported",
        "finite_watch",
        "reliability_diagram",
        "steps",
        "tf1_checkpoint",
        "tf1_files",
    ],
    ["assembly"],
    [
        "agreement",
        "closeups",
        "comparison",
        "evaluate",
        "export",
        "export_onnx",
        "export_tflite",
        "folder_comparison",
        "inference",
        "panel",
        "run_data",
        "trainer",
    ],
    ["convert", "train"],
    ["calibration", "prediction_folder", "self_training"],
    ["run_report"],
    ["report_page"],
    ["budgets", "experiment_catalog", "experiment_report"],
    ["cli", "demo"],
]
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
# Narrower than the layers: these see only what is listed (and themselves).
ONLY = {
    "nn": {"_keras", "errors", "nn"},
    "pseudo_label": {"nn.layers"},
    "losses": {"data.specs", "nn.layers", "pseudo_label"},
    "optim": {"_keras"},
    "data": {"config", "data", "datasets", "errors", "files", "progress"},
    "config": set(),
    "cost": {"config"},
    "experiments": {"experiments"},
    "errors": set(),
    "_keras": set(),
}


def sources() -> list[Path]:
    beside = [path for folder in ("datasets", "experiments") for path in (ROOT / folder).glob("*.py")]
    return sorted([*PACKAGE.rglob("*.py"), *beside])


def module_name(path: Path) -> str:
    """Name below the package: "nn.layers", "datasets.shapes_seg", "__init__"."""
    parts = list(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yields the full names of all imported modules, those in functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # "from package import module" and "from module import name" look alike.
            for alias in node.names:
                is_module = (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def own_imports_of(path: Path) -> set[str]:
    """Imported modules of the package, by their names below it."""
    parts = [name.split(".") for name in imports_of(path)]
    return {".".join(part[1:]) or "__init__" for part in parts if part[0] == "pseudoseg_tf"}


def entry_for(name: str, table: dict) -> str | None:
    """The entry that covers a module: its own, else its subpackage's."""
    return next((key for key in (name, name.split(".")[0]) if key in table), None)


def in_package() -> list[Path]:
    # The package's own __init__ names everything, lazily.
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", in_package(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    name = module_name(path)
    own = entry_for(name, LAYER_OF)
    assert own, f"{name}: give it a place in LAYERS"
    for imported in own_imports_of(path):
        other = entry_for(imported, LAYER_OF)
        assert other or imported.startswith("datasets"), f"{imported}: give it a place in LAYERS"
        assert not other or LAYER_OF[other] <= LAYER_OF[own], f"{name} imports {imported}"


@pytest.mark.parametrize("path", in_package(), ids=module_name)
def test_lower_modules_see_only_what_they_need(path: Path) -> None:
    name = module_name(path)
    allowed = ONLY.get(entry_for(name, ONLY) or "")
    if allowed is not None:
        for imported in own_imports_of(path):
            assert imported in allowed or imported.split(".")[0] in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_keras_comes_through_one_file(path: Path) -> None:
    for imported in imports_of(path):
        assert imported.split(".")[0] != "keras"
        assert imported.split(".")[0] != "tf_keras" or module_name(path) == "_keras"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "tf.keras", f"line {node.lineno}"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=module_name)
def test_experiments_are_data(path: Path) -> None:
    assert own_imports_of(path) <= {"experiments.definition"}


@pytest.mark.parametrize("path", sorted((ROOT / "datasets").glob("*.py")), ids=module_name)
def test_data_set_definitions_stand_alone(path: Path) -> None:
    allowed = {"data.decode", "data.specs", "data.splits", "errors", "progress"}
    assert own_imports_of(path) <= allowed


PROGRAMS = (
    *("train", "evaluate", "export", "predict", "convert", "check_data", "make_split", "calibrate"),
    *("self_train", "experiment", "report", "inspect"),
)


@pytest.mark.parametrize("module", ["pseudoseg_tf", *(f"pseudoseg_tf.cli.{program}" for program in PROGRAMS)])
def test_importing_is_quick(module: str) -> None:
    """A program answers --help and wrong flags at once: TensorFlow is imported when there is work for it."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"tensorflow", "tf_keras", "orbit", "tensorflow_datasets"}


@pytest.mark.parametrize("name", pseudoseg_tf.__all__)
def test_public_name_is_the_function_whatever_was_imported_before(name: str) -> None:
    home = importlib.import_module(f"pseudoseg_tf.{pseudoseg_tf._HOMES[name]}")
    assert getattr(pseudoseg_tf, name) is getattr(home, name)
    assert callable(getattr(pseudoseg_tf, name))
    assert name in dir(pseudoseg_tf)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'pseudoseg_tf' has no attribute 'trian'"):
        _ = pseudoseg_tf.trian


def test_every_file_has_a_docstring() -> None:
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
