"""The smallest things that behave like the real ones: a model with decided weights, and a run directory."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.checkpoint import checkpoint_directory
from pseudoseg_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from pseudoseg_tf.data import resampling
from pseudoseg_tf.data.geometry import GeometryDraws
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.files import write_json
from pseudoseg_tf.nn.layers import (
    BatchNormFactory,
    EndPoints,
    SeedSequence,
    conv_batch_norm,
    truncated_normal,
)
from pseudoseg_tf.nn.model import PseudoSegModel, build_model

CLASS_NAMES = ("background", "cat", "dog")
# Height and width of the validation images.
SIZES = ((20, 30), (33, 17), (25, 40), (9, 33), (30, 12))
STEP = 7


class TinyModel(tf_keras.Model):
    """A stride-4 convolution with the interface of PseudoSegModel."""

    def __init__(self, num_classes: int = len(CLASS_NAMES)) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convolution = tf_keras.layers.Conv2D(num_classes, 5, strides=4, padding="same")
        self.convolution.build([None, None, None, 3])
        random = np.random.default_rng(0)
        self.convolution.set_weights([random.normal(size=w.shape) for w in self.convolution.get_weights()])

    def normalize(self, images: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        return (images * (2.0 / 255.0) - 1.0) * tf.cast(valid, tf.float32)[..., tf.newaxis]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        assert not training
        return self.convolution(images)


class TinyBackbone(tf_keras.layers.Layer):
    """Four strided convolutions in the place of MobileNetV1, whose arguments it takes: a graph of it is soon traced."""

    def __init__(self, output_stride: int, width: float, batch_norm: BatchNormFactory, seeds: SeedSequence):
        super().__init__(name="tiny")
        assert output_stride == 16
        self.units = [
            conv_batch_norm(8, 3, truncated_normal(0.3, seeds()), batch_norm, f"tiny{stage}", strides=2)
            for stage in range(4)
        ]

    def call(self, images: tf.Tensor, training: bool = False) -> EndPoints:
        stages = [images]
        for unit in self.units:
            stages.append(unit(stages[-1], training=training))
        return EndPoints(stages[2], tuple(stages[1:]))


def unrounded_view(image: tf.Tensor | np.ndarray, draws: GeometryDraws, crop: tuple[int, int]) -> np.ndarray:
    """The image of `geometry.weak_view` before it is rounded, float32."""
    scaled, offset = draws.scaled_size.numpy(), draws.offset.numpy()
    return resampling.sample(np.asarray(image), scaled, offset, crop, np.float32, bool(draws.flip))


def resize_plainly(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with aligned corners: row i of [B, H, W, C] is read at i * (in - 1) / (out - 1). float64."""

    def weights(rows: int, out: int) -> np.ndarray:
        at = np.arange(out)[:, None] * (rows - 1) / max(1, out - 1)
        return np.maximum(0, 1 - np.abs(at - np.arange(rows)))

    return np.einsum("yh,xw,bhwc->byxc", weights(x.shape[1], size[0]), weights(x.shape[2], size[1]), x)


def random_images(*shape: int, seed: int = 1) -> np.ndarray:
    """uint8 [..., 3]."""
    return np.random.default_rng(seed).integers(0, 256, [*shape, 3]).astype(np.uint8)


def random_labels(*shape: int, seed: int = 2) -> np.ndarray:
    """uint8 ids of CLASS_NAMES, some of them 255."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.1, IGNORE_LABEL, rng.integers(0, len(CLASS_NAMES), shape)).astype(
        np.uint8
    )


def decide(model: PseudoSegModel) -> None:
    """Changes the weights of a new network, whose logits are all but equal: the argmax would be left to rounding."""
    random = np.random.default_rng(0)
    for variable in model.head.trainable_variables:
        variable.assign_add(random.normal(scale=0.5, size=variable.shape))


def make_run(directory: Path, eval_size: tuple[int, int] = (0, 0), mode: str = "supervised") -> str:
    """Draws a data set of len(SIZES) validation images and writes the run directory of a small network.

    Its "last" and "best" checkpoint are of step STEP and have the same weights.
    """
    data = directory / "data"
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    for index, size in enumerate(((16, 16), *SIZES)):
        Image.fromarray(random_images(*size, seed=index)).save(data / "images" / f"{index}.png")
        Image.fromarray(random_labels(*size, seed=index)).save(data / "masks" / f"{index}.png")
    (data / "classes.txt").write_text("\n".join(CLASS_NAMES))
    (data / "labeled.txt").write_text("0\n")
    (data / "val.txt").write_text("".join(f"{index + 1}\n" for index in range(len(SIZES))))
    config = Config(
        model=ModelConfig(width_multiplier=0.25, aspp_channels=8, decoder_channels=8, attention_dim=8),
        data=DataConfig(
            images=str(data / "images"),
            masks=str(data / "masks"),
            classes=str(data / "classes.txt"),
            labeled=str(data / "labeled.txt"),
            unlabeled=str(data / "labeled.txt"),
            val=str(data / "val.txt"),
            eval_size=eval_size,
            eval_batch=2 if any(eval_size) else 1,
        ),
        train=TrainConfig(mode=mode),
    )
    run_dir = str(directory / "run")
    config_io.save(run_dir, "folder", config)
    info = open_sources(config.data, "supervised").info
    write_json(os.path.join(run_dir, "dataset.json"), info.to_json())
    model = build_model(info.num_classes, **dataclasses.asdict(config.model))
    decide(model)
    saved = tf.train.Checkpoint(step=tf.Variable(STEP, dtype=tf.int64), model=model)
    for which in ("last", "best"):
        manager = tf.train.CheckpointManager(saved, checkpoint_directory(run_dir, which), max_to_keep=1)
        manager.save(checkpoint_number=STEP)
    return run_dir
