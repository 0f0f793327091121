"""Evaluation: a loop over images whatever the batches, canvas and replicas; and of a run directory."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf.calibration import calibrate
from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.geometry import padded_size
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Source, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import Evaluator, evaluate, validation_images
from pseudoseg_tf.inference import predict
from pseudoseg_tf.metrics import SegmentationMetrics
from tests.tiny import CLASS_NAMES, SIZES, STEP, TinyModel, make_run, random_images, random_labels

INFO = DatasetInfo((*CLASS_NAMES, "never"), voc_palette(4), "pets")


class NeverModel(TinyModel):
    """Has a fourth class that it never predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 4

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        logits = super().call(images, training)
        return tf.concat([logits, tf.fill(tf.shape(logits[..., :1]), -1e4)], -1)


def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(random_images(*size, seed=k), random_labels(*size, seed=k)) for k, size in enumerate(SIZES)]


def batches(canvas: int) -> tf.data.Dataset:
    """As `evaluation_dataset` makes them: up to 2 images on one canvas, or each image on its own."""

    def generate() -> Iterator[dict[str, np.ndarray]]:
        for image, labels in examples():
            height, width = labels.shape
            border = (0, padded_size(height, canvas) - height), (0, padded_size(width, canvas) - width)
            yield {
                "image": np.pad(image, [*border, (0, 0)]),
                "labels": np.pad(labels, border, constant_values=IGNORE_LABEL),
                "size": np.array([height, width], np.int32),
            }

    side = canvas or None
    signature = {
        "image": tf.TensorSpec([side, side, 3], tf.uint8),
        "labels": tf.TensorSpec([side, side], tf.uint8),
        "size": tf.TensorSpec([2], tf.int32),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=signature).batch(2 if canvas else 1)


def expected(eval_size: tuple[int, int], **how: Any) -> dict[str, Any]:
    model, metrics = NeverModel(), SegmentationMetrics(4)
    for image, labels in examples():
        _, probabilities = predict(model, tf.constant(image[None]), eval_size, **how)
        metrics.update(labels[None], probabilities)
    return metrics.result(INFO.class_names)


@pytest.mark.parametrize("canvas", [0, 49])
@pytest.mark.parametrize(
    ("devices", "how"),
    [
        (1, {}),
        (2, {}),
        (2, {"scales": (0.5, 1.0, 1.25), "flip": True}),
        (2, {"scales": (1.0, 1.25), "window": (17, 33), "overlap": 0.4}),
    ],
)
def test_evaluation_equals_a_loop_over_images(
    canvas: int, devices: int, how: dict[str, Any], two_replicas: tf.distribute.Strategy
) -> None:
    strategy = two_replicas if devices == 2 else tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = NeverModel()
    data = DataConfig(eval_size=(canvas, canvas), **{f"eval_{key}": value for key, value in how.items()})
    evaluator = Evaluator(model, batches(canvas), INFO, len(SIZES), strategy, data)
    scalars = evaluator.evaluate(tf.constant(-1))

    wanted = expected((canvas, canvas), **how)
    assert json.loads(json.dumps(evaluator.result)) == evaluator.result
    assert evaluator.result["images"] == len(SIZES)
    assert evaluator.result["iou"]["never"] is None
    assert evaluator.result["iou"] == wanted["iou"]
    assert scalars == {name: evaluator.result[name] for name in ("miou", "pixel_accuracy", "ece")}
    for name, value in scalars.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)

    assert evaluator.reliability.ece == evaluator.result["ece"]

    # A second evaluation starts from nothing.
    assert evaluator.evaluate(tf.constant(-1)) == scalars


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("evaluate"), eval_size=(49, 49))


def test_evaluate_writes_the_metrics_of_a_checkpoint_on_one_device_and_two(run_dir: str) -> None:
    result = evaluate(run_dir, "best")
    scores = ["miou", "pixel_accuracy", "ece", "iou"]
    assert list(result) == [*scores, "images", "step", "checkpoint", "scales", "flip", "window", "overlap"]
    assert result["scales"] == [1.0] and result["flip"] is False
    assert result["window"] == [0, 0] and result["overlap"] == 0.25
    assert list(result["iou"]) == list(CLASS_NAMES)
    assert result["images"] == len(SIZES) and result["step"] == STEP
    assert result["checkpoint"].endswith(f"best/ckpt-{STEP}")
    # Above what one class everywhere would give: the weights were restored and several classes compete.
    assert 0 < result["miou"] < 1 and min(result["iou"].values()) > 0
    assert json.loads(Path(run_dir, "metrics.json").read_text()) == result
    with Image.open(Path(run_dir, "reliability.png")) as picture:
        assert picture.format == "PNG"

    # The last checkpoint, which is the same here, on two devices.
    path = Path(run_dir, "config.json")
    path.write_text(path.read_text().replace('"strategy": "auto"', '"strategy": "mirrored"'))
    shared = evaluate(run_dir)
    assert shared.pop("checkpoint").endswith(f"last/ckpt-{STEP}")
    # The batches are the same ones, so that even rounding is.
    assert shared.pop("iou") == result["iou"]
    for name in ("miou", "pixel_accuracy", "ece"):
        np.testing.assert_allclose(shared.pop(name), result[name], rtol=1e-6)
    predicted = {"scales": [1.0], "flip": False, "window": [0, 0], "overlap": 0.25}
    assert shared == {"images": len(SIZES), "step": STEP} | predicted


def test_scales_and_flip_of_the_call_go_before_those_of_the_run(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, eval_size=(49, 49))
    path = Path(run_dir, "config.json")
    values = json.loads(path.read_text())
    values["config"]["data"] |= {"eval_scales": [0.5, 1], "eval_flip": True}
    path.write_text(json.dumps(values))
    careful = evaluate(run_dir)
    assert careful["scales"] == [0.5, 1.0] and careful["flip"] is True
    quick = evaluate(run_dir, scales=(0.5,), flip=False)
    assert quick["scales"] == [0.5] and quick["flip"] is False
    assert json.loads(Path(run_dir, "metrics.json").read_text()) == quick
    assert quick["miou"] != careful["miou"]
    with pytest.raises(UserError, match=r"^data.eval_scales: found '0.0'"):
        evaluate(run_dir, scales=[0])


@pytest.mark.parametrize("module", ["evaluate", "calibration"])
def test_training_may_go_on_while_the_data_are_opened(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that was the last one is removed, and a newer one is there."""
    run_dir = make_run(tmp_path)
    program = importlib.import_module(f"pseudoseg_tf.{module}")
    last = Path(run_dir, "checkpoints/last")

    def open_slowly(*args: Any) -> Source:
        for path in last.glob(f"ckpt-{STEP}.*"):
            path.rename(last / path.name.replace(str(STEP), str(STEP + 1)))
        return validation_images(*args)

    monkeypatch.setattr(program, "validation_images", open_slowly)
    result = evaluate(run_dir) if module == "evaluate" else calibrate(run_dir)
    assert result["checkpoint"] == str(last / f"ckpt-{STEP + 1}")


def test_evaluate_refuses_other_classes_than_the_run_has(run_dir: str) -> None:
    path = Path(run_dir, "dataset.json")
    before = path.read_text()
    path.write_text(before.replace("dog", "cow"))
    try:
        with pytest.raises(UserError, match=r"cow.*dog.*restore the class list"):
            evaluate(run_dir)
    finally:
        path.write_text(before)


def test_evaluate_names_a_damaged_dataset_json(run_dir: str) -> None:
    path = Path(run_dir, "dataset.json")
    before = path.read_text()
    path.write_text("{}")
    try:
        with pytest.raises(UserError, match=r"run/dataset\.json: .*class_names"):
            evaluate(run_dir)
    finally:
        path.write_text(before)
