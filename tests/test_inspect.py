"""What pseudoseg-inspect shows: the parts of a network, a batch, differing keys; and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf.batch_picture import batch_picture
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.sources import open_sources
from tests.folder import draw_folder, small_config

ROOT = Path(__file__).resolve().parents[1]


def inspect(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pseudoseg_tf.cli.inspect", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_batch_is_drawn_as_it_is_learned(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data")
    config = small_config(tmp_path / "data")
    sources = open_sources(config.data, "unlabeled")
    picture = batch_picture(config, sources, step=3)
    batch = next(iter(pipeline.training_dataset(sources, config.data, "unlabeled", 3)))

    def tile(row: int, column: int) -> np.ndarray:
        """The middle of a picture of 192 pixels, which shows 33."""
        top, left = 20 + row * 196, 4 + column * 196
        return picture[top + 96, left + 96].astype(int)

    for row, (stream, k) in enumerate((stream, k) for stream in ("labeled", "unlabeled") for k in range(2)):
        examples = batch[stream]
        assert np.abs(tile(row, 0) - examples["image"][k, 16, 16].numpy()).max() <= 1, row
        color = sources.info.palette[int(examples["labels"][k, 16, 16])] if stream == "labeled" else None
        # The additional images have no masks.
        np.testing.assert_array_equal(tile(row, 3), color or (224, 224, 192))
    assert (tile(0, 1) == 255).all() and (tile(1, 1) == 255).all()
    supervised = batch_picture(small_config(tmp_path / "data", "supervised"), sources)
    assert supervised.shape[0] < picture.shape[0]


def test_the_program(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data")
    config = small_config(tmp_path / "data")
    other = config_io.apply_overrides(config, ["train.mode=supervised", "pseudo.gamma=0.3"])
    for name, each in (("a", config), ("b", other)):
        config_io.save(tmp_path / name, "folder", each)
    picture = tmp_path / "new/batch.png"
    done = inspect(f"--run_dir={tmp_path / 'a'}", f"--compare={tmp_path / 'b'}", f"--batch={picture}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["part", "parameters", "trained", "GFLOP", "at", "33x33"]
    parts = [line.rsplit(maxsplit=3)[0] for line in lines[1:8]]
    assert parts == [
        *("backbone", "ASPP", "decoder", "image classifier", "Grad-CAM", "self-attention (SGC)", "prediction")
    ]
    counts = [int(line.split()[-3].replace(",", "")) for line in lines[1:8]]
    assert counts[6] == sum(counts[:3]) and counts[4] == 0
    # One weight for each feature of a quarter of MobileNet's width, and a bias, for each of two classes.
    assert counts[3] == 2 * (256 + 1)
    assert [line.split() for line in lines[9:12]] == [
        ["key", str(tmp_path / "a"), str(tmp_path / "b")],
        ["train.mode", "unlabeled", "supervised"],
        ["pseudo.gamma", "0.5", "0.3"],
    ]
    with Image.open(picture) as file:
        assert file.height > 4 * 192


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for flags, message in (
        ([], "--run_dir, --preset: give one of them, a run or one of the presets folder, shapes"),
        (["--preset=shapes", "--batch=a.gif"], "--batch: found 'a.gif', must end in .png, .jpg or .jpeg"),
        ([f"--run_dir={tmp_path}"], f"{tmp_path}: no config.json here"),
        (["--run_dir=x", "--set=train.steps=1"], "--set: a run has its keys already"),
    ):
        done = inspect(*flags)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {message}"), done.stderr
        assert done.stderr.count("\n") == 1
