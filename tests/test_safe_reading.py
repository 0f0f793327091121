"""What files of users must never reach: code that runs what it reads, or unpacks where it likes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path
    for folder in ("pseudoseg_tf", "datasets", "experiments", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)

# Modules that run, or can run, what they read; and one that unpacks archives, which no part of this project does. Of
# zip files, members are read by name.
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "torch"),
    "tarfile",
}
# Last part of a call's name.
FORBIDDEN_CALLS = {
    *("eval", "exec", "load_model", "load_weights", "model_from_json", "from_config", "unpack_archive"),
    *("extractall", "download_and_extract", "extract"),
}
# What a network layer inherits, and Keras' own names for it, is no reading.
KEYWORDS = {"allow_pickle": False, "safe_mode": True, "shell": False}


def mistakes(source: str) -> Iterator[str]:
    """Yields line and name of everything that is forbidden in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"{node.lineno}: {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.split(".")[-1] in FORBIDDEN_CALLS:
                yield f"{node.lineno}: {name}"
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and ast.unparse(keyword.value) != str(KEYWORDS[keyword.arg]):
                    yield f"{node.lineno}: {keyword.arg}"
            # numpy's default changed from true to false: it is said in so many words.
            if name in ("np.load", "numpy.load") and "allow_pickle" not in {k.arg for k in node.keywords}:
                yield f"{node.lineno}: {name} without allow_pickle"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert list(mistakes(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import yaml",
        "from yaml import load",
        "import os, tarfile",
        "def f():\n    from tarfile import TarFile",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "np.savez(path, allow_pickle=True)",
        "tf_keras.models.load_model(path)",
        "eval(text)",
        "shutil.unpack_archive(path)",
        "archive.extractall(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_each_is_found(source: str) -> None:
    assert len(list(mistakes(source))) == 1


def test_what_is_allowed() -> None:
    assert list(mistakes("import json\nnp.load(path, allow_pickle=False)\nmodel.load(path)\n")) == []
