"""From the archives to a score: the presets of published data sets, three steps each, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published import draw_cityscapes

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("model.backbone=mobilenet_v1", "model.width_multiplier=0.25", "model.aspp_channels=8"),
    *("model.decoder_channels=8", "model.attention_dim=8", "data.crop_size=65", "data.batch_labeled=2"),
    *("data.batch_unlabeled=2", "data.labeled=train", "train.steps=3"),
)


def train(preset: str, archives: Path, tmp_path: Path, *overrides: str) -> dict:
    """Prepares the data, trains, and returns what the evaluation at the end found."""
    places = (f"data.manual_dir={archives}", f"data.data_dir={tmp_path / 'prepared'}")
    flags = [f"--set={override}" for override in (*SMALL, *places, *overrides)]
    command = [
        sys.executable,
        "-m",
        "pseudoseg_tf.cli.train",
        f"--preset={preset}",
        f"--run_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "run/history.jsonl").read_text().splitlines()
    return json.loads(line)


@pytest.mark.slow
@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("preset", "name", "sample", "classes"),
    [
        ("voc12", "pascal_voc_seg/subset", "voc12_devkit_sample", 21),
        ("coco", "coco_seg/coco81_subset", "coco_sample", 81),
    ],
)
def test_preset_on_a_sample(
    preset: str, name: str, sample: str, classes: int, shared_dir: Path, tmp_path: Path
) -> None:
    found = train(preset, shared_dir / "data" / sample, tmp_path, f"data.name={name}")
    assert found["step"] == 3 and len(found["iou"]) == classes and 0 < found["pixel_accuracy"] < 1


@pytest.mark.slow
def test_cityscapes_preset_on_drawn_frames(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path / "archives")
    overrides = ("data.name=cityscapes_seg/subset", "data.eval_size=33,65")
    found = train("cityscapes", tmp_path / "archives", tmp_path, *overrides)
    # Every train id is in the frame that is scored.
    assert found["step"] == 3 and len(found["iou"]) == 19 and None not in found["iou"].values()
