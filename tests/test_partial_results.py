"""Programs that stop at a bad file, or in the midst of writing: nothing half done bears its final name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.calibration import calibrate
from pseudoseg_tf.cli._app import user_message
from pseudoseg_tf.data.splits import write_ids
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.files import write_json
from pseudoseg_tf.visualize import save_image, save_palette_png
from tests.tiny import make_run


@pytest.fixture(scope="module")
def damaged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last but one validation image is cut off."""
    run_dir = Path(make_run(tmp_path_factory.mktemp("damaged")))
    path = run_dir.parent / "data/images/4.png"
    path.write_bytes(path.read_bytes()[:-200])
    return run_dir


@pytest.mark.parametrize("program", [evaluate, lambda run_dir: calibrate(run_dir, "last", f"{run_dir}/new")])
def test_a_damaged_image_leaves_the_scores_as_they_were(
    program: Callable[[str], object], damaged_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(damaged_run, run_dir)
    (run_dir / "metrics.json").write_text("those before")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(tf.errors.OpError) as error:
        program(str(run_dir))
    line = user_message(error.value)
    assert line is not None
    assert line.startswith(f"image {damaged_run.parent}/data/images/4.png: damaged (")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


PICTURE = np.zeros((5, 6, 3), np.uint8)
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: write_json(path, {"a": 1}),
    "a.txt": lambda path: write_ids(path, ["a", "b"]),
    "a.png": lambda path: save_palette_png(path, PICTURE[..., 0], [(0, 0, 0)]),
    "a_overlay.jpg": lambda path: save_image(path, PICTURE),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_appears_when_it_is_complete(
    name: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment before its name appears the whole content is there, under another name."""
    path = tmp_path / name
    WRITERS[name](path)
    complete = path.read_bytes()
    if old is None:
        path.unlink()
    else:
        path.write_bytes(old)
    seen = []

    def stop(source: str | Path, target: str | Path) -> None:
        seen.append((Path(source).read_bytes(), Path(target)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[name](path)
    assert seen == [(complete, path)]
    assert (path.read_bytes() if path.exists() else None) == old
