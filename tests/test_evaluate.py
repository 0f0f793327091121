"""The Evaluator: equal to a loop over single images, whatever the batches, canvas and replicas."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.data.geometry import padded_size
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, voc_palette
from pseudoseg_tf.evaluate import Evaluator
from pseudoseg_tf.inference import predict
from pseudoseg_tf.metrics import SegmentationMetrics

INFO = DatasetInfo(("background", "cat", "dog", "never"), voc_palette(4), "pets")
SIZES = [(20, 30), (33, 17), (25, 25), (9, 33), (30, 12)]


class TinyModel(tf_keras.Model):
    """A stride-4 convolution with the interface of PseudoSegModel."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = tf_keras.layers.Conv2D(3, 5, strides=4, padding="same")
        self.convolution.build([None, None, None, 3])
        random = np.random.default_rng(0)
        self.convolution.set_weights([random.normal(size=w.shape) for w in self.convolution.get_weights()])
        # The last class is never predicted.
        self.never = self.add_weight("never", [1], initializer=tf_keras.initializers.Constant(-1e4))

    def normalize(self, images: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        return (images * (2 / 255) - 1) * tf.cast(valid, tf.float32)[..., None]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        logits = self.convolution(images)
        return tf.concat([logits, tf.zeros_like(logits[..., :1]) + self.never], -1)


def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    found = []
    for height, width in SIZES:
        labels = rng.integers(0, 3, [height, width]).astype(np.uint8)
        labels[rng.random(labels.shape) < 0.1] = IGNORE_LABEL
        found.append((rng.integers(0, 256, [height, width, 3]).astype(np.uint8), labels))
    return found


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


def expected(eval_size: tuple[int, int]) -> dict[str, object]:
    model, metrics = TinyModel(), SegmentationMetrics(4)
    for image, labels in examples():
        _, probabilities = predict(model, tf.constant(image[None]), eval_size)
        metrics.update(labels[None], probabilities)
    return metrics.result(INFO.class_names)


@pytest.mark.parametrize("canvas", [0, 49])
@pytest.mark.parametrize("devices", [1, 2])
def test_evaluation_equals_a_loop_over_images(canvas, devices):
    strategy = (
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        if devices == 2
        else tf.distribute.OneDeviceStrategy("CPU:0")
    )
    with strategy.scope():
        model = TinyModel()
    evaluator = Evaluator(model, batches(canvas), INFO, len(SIZES), strategy, (canvas, canvas))
    scalars = evaluator.evaluate(tf.constant(-1))

    wanted = expected((canvas, canvas))
    assert evaluator.result["images"] == len(SIZES)
    assert evaluator.result["iou"]["never"] is None
    assert evaluator.result["iou"] == wanted["iou"]
    assert scalars == {name: evaluator.result[name] for name in ("miou", "pixel_accuracy", "ece")}
    for name, value in scalars.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)

    # A second evaluation starts from nothing.
    assert evaluator.evaluate(tf.constant(-1)) == scalars
