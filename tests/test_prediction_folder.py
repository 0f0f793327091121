"""A folder of predictions: what is written about an image, what counts as done, and when the summary is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf.data.specs import DatasetInfo, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.inference import Prediction
from pseudoseg_tf.prediction_folder import PredictionFolder
from tests.tiny import CLASS_NAMES, random_images

INFO = DatasetInfo(CLASS_NAMES, voc_palette(3), "tiny")


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def prediction() -> Prediction:
    """Two rows of four pixels: five of class 0, three of class 2, none of class 1."""
    labels = np.array([[0, 0, 0, 2], [0, 0, 2, 2]], np.uint8)
    probabilities = np.full([2, 4, 3], 0.125, np.float32)
    np.put_along_axis(probabilities, labels[..., None].astype(int), 0.75, axis=-1)
    return Prediction(random_images(2, 4), labels, probabilities, INFO)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.touch()
    os.utime(path, (1000, 1000))
    return path


def summary(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text())


def test_an_image_gets_its_files_and_its_entry(tmp_path: Path, image: Path) -> None:
    out = tmp_path / "new" / "out"
    with PredictionFolder(out, "f1", probabilities=True) as folder:
        folder.write("a", image, prediction())
    assert sorted(path.name for path in out.iterdir()) == [
        "a.npz",
        "a.png",
        "a_overlay.jpg",
        "predictions.json",
    ]
    with Image.open(out / "a.png") as written:
        np.testing.assert_array_equal(np.asarray(written), prediction().labels)
    with np.load(out / "a.npz", allow_pickle=False) as written:
        assert written.files == ["probabilities"] and written["probabilities"].dtype == np.float16
        np.testing.assert_array_equal(written["probabilities"], prediction().probabilities)
    assert summary(out) == {
        "model": "f1",
        "images": {
            "a": {
                "image": str(image),
                "size": [2, 4],
                "mean_confidence": 0.75,
                "classes": {
                    "background": {"pixels": 5, "share": 0.625},
                    "dog": {"pixels": 3, "share": 0.375},
                },
            }
        },
    }


def test_an_image_is_done_when_all_its_files_are_newer(tmp_path: Path, image: Path) -> None:
    with PredictionFolder(tmp_path / "out", "f1") as folder:
        assert not folder.has("a", image)
        folder.write("a", image, prediction())
    again = PredictionFolder(tmp_path / "out", "f1")
    assert again.has("a", image) and not again.has("b", image) and not again.has("a", tmp_path / "b.jpg")
    # Probabilities are wanted now and were not written.
    assert not PredictionFolder(tmp_path / "out", "f1", probabilities=True).has("a", image)
    written = (tmp_path / "out" / "a.png").stat().st_mtime
    os.utime(image, (written + 1, written + 1))
    assert not again.has("a", image)
    os.utime(image, (1000, 1000))
    (tmp_path / "out" / "a_overlay.jpg").unlink()
    assert not again.has("a", image)


def test_the_summary_keeps_what_was_there_and_is_written_as_time_passes(tmp_path: Path, image: Path) -> None:
    out, clock = tmp_path / "out", Clock()
    with PredictionFolder(out, "f1") as folder:
        folder.write("a", image, prediction())
    # Broken off without a word: what was written ten seconds after the start counts, the last image does not.
    broken_off = PredictionFolder(out, "f1", clock=clock)
    broken_off.write("b", image, prediction())
    assert list(summary(out)["images"]) == ["a"]
    clock.now = 10.0
    broken_off.write("c", image, prediction())
    clock.now = 19.9
    broken_off.write("d", image, prediction())
    assert list(summary(out)["images"]) == ["a", "b", "c"]
    with pytest.raises(KeyboardInterrupt), PredictionFolder(out, "f1") as interrupted:
        assert interrupted.has("c", image) and not interrupted.has("d", image)
        interrupted.write("d", image, prediction())
        raise KeyboardInterrupt
    assert list(summary(out)["images"]) == ["a", "b", "c", "d"]


def test_nothing_is_left_where_nothing_was_predicted(tmp_path: Path) -> None:
    with PredictionFolder(tmp_path / "out", "f1"):
        pass
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_model_is_refused(tmp_path: Path, image: Path) -> None:
    with PredictionFolder(tmp_path, "f1") as folder:
        folder.write("a", image, prediction())
    with pytest.raises(UserError, match=r"holds predictions of another model, .*; name another folder"):
        PredictionFolder(tmp_path, "f2")
    for content in ("[]", '{"model": "f1"}', '{"model": "f1", "images": []}'):
        (tmp_path / "predictions.json").write_text(content)
        with pytest.raises(UserError, match=r"predictions\.json: no summary of pseudoseg-predict"):
            PredictionFolder(tmp_path, "f1")
