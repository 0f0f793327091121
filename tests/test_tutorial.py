"""The tutorial, run as it stands: every block of docs/tutorial.md, in one shell, on a folder of drawn photos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.inference import Predictor
from tests.commands import ROOT, blocks
from tests.html_page import Page

PHOTOS, MASKS = 24, 16


def draw_photos(root: Path) -> None:
    """Photos of red and green things on noise; masks for the first ones, which show both classes."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(PHOTOS):
        height, width = random.integers(120, 160, 2)
        photo = random.integers(60, 120, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        for label in (1, 2):
            top, left = random.integers(0, 80), random.integers(0, 80)
            mask[top : top + 40, left : left + 40] = label
        for label in (1, 2):
            photo[mask == label, label - 1] = 250
        Image.fromarray(photo).save(root / f"images/photo_{number:03}.jpg")
        if number < MASKS:
            Image.fromarray(mask).save(root / f"masks/photo_{number:03}.png")
    (root / "classes.txt").write_text("background\nred\ngreen\n")


def programs(folder: Path) -> None:
    """The console programs, of this copy of the package."""
    folder.mkdir()
    for program in re.findall(r'^ {16}"(\w+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE):
        path = folder / f"pseudoseg-{program.replace('_', '-')}"
        path.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pseudoseg_tf.cli.{program} "$@"\n'
        )
        path.chmod(0o755)


@pytest.mark.slow
def test_the_tutorial_as_it_stands(tmp_path: Path) -> None:
    draw_photos(tmp_path / "my")
    programs(tmp_path / "bin")
    # What the download of the weights leaves in the home directory; here random ones.
    weights = tmp_path / "home/.keras/models/mobilenet_1_0_224_tf_no_top.h5"
    weights.parent.mkdir(parents=True)
    tf_keras.applications.MobileNet(weights=None, include_top=False).save_weights(weights)

    script = "\n".join(blocks((ROOT / "docs/tutorial.md").read_text(encoding="utf-8")))
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    labeled, val, unlabeled = (
        (tmp_path / "my" / name).read_text().split() for name in ("labeled_1.txt", "val.txt", "unlabeled.txt")
    )
    assert (len(labeled), len(val), len(unlabeled)) == (12, 4, PHOTOS - MASKS)
    assert not {*labeled} & {*val}
    assert (tmp_path / "runs/check/index.html").is_file() and (tmp_path / "runs/batch.png").is_file()
    page = Page(tmp_path / "runs/pseudoseg/report.html")
    assert "Report of pseudoseg, beside supervised" in page.text and len(page.images) == 4 * 8 + 8 * 4
    assert len(list((tmp_path / "runs/predictions").glob("photo_*.png"))) == PHOTOS
    labels = Predictor(tmp_path / "runs/model")(tmp_path / "my/images/photo_000.jpg").labels
    with Image.open(tmp_path / "runs/predictions/photo_000.png") as file:
        np.testing.assert_array_equal(np.asarray(file), labels)
