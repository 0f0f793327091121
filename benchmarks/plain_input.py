"""The input as the reference orders it: what ``data.pipeline`` is measured against.

The whole image is resized and its colors are changed before the crop is cut out. Images, scales, crops and flips are
those of the labeled stream.
"""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import geometry
from pseudoseg_tf.data.color import strong_draws
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.pipeline import example_draws
from pseudoseg_tf.data.specs import IGNORE_LABEL, Source

# The strong view's operations by their number in ``color.StrongDraws.order``.
_OPERATIONS = (
    tf.image.adjust_brightness,
    lambda image, factor: (image - tf.reduce_mean(image, [0, 1])) * factor + tf.reduce_mean(image, [0, 1]),
    tf.image.adjust_saturation,
    tf.image.adjust_hue,
)


def plain_dataset(source: Source, data: DataConfig) -> tf.data.Dataset:
    """Endless single examples: weak and strong view float32 [H, W, 3], labels and valid uint8 [H, W]."""

    def read(index: int) -> tuple[object, object]:
        return decode_record(source.read(int(index)), source.info.num_classes)

    def example(counter: tf.Tensor) -> tuple[tf.Tensor, ...]:
        index, geometry_seed, strong_seed = example_draws(len(source), data, "labeled", counter)
        image, labels = tf.numpy_function(read, [index], (tf.uint8, tf.uint8))
        image, labels = tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(labels, [None, None])
        draws = geometry.geometry_draws(
            geometry_seed, tf.shape(labels), data.crop_size, data.min_scale, data.max_scale, data.scale_step
        )
        image = tf.image.resize(tf.cast(image, tf.float32), draws.scaled_size, antialias=True)
        labels = tf.raw_ops.ResizeNearestNeighbor(
            images=labels[tf.newaxis, ..., tf.newaxis], size=draws.scaled_size, align_corners=True
        )[0, ..., 0]
        strong = _jitter(image, strong_draws(strong_seed, data.crop_size, data.jitter_strength))
        valid = tf.ones_like(labels)
        views = [_crop(image, 127.5, draws, data), _crop(strong, 127.5, draws, data)]
        masks = [_crop(labels[..., tf.newaxis], IGNORE_LABEL, draws, data)[..., 0]]
        masks += [_crop(valid[..., tf.newaxis], 0, draws, data)[..., 0]]
        parts = [*views, *masks]
        return tuple(
            tf.cond(draws.flip, lambda part=part: tf.reverse(part, [1]), lambda part=part: part)
            for part in parts
        )

    return tf.data.Dataset.range(tf.int64.max).map(example)


def _jitter(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    image = image / 255.0
    for operation in tf.unstack(draws.order):
        image = tf.switch_case(
            operation,
            [
                lambda change=change, amount=amount, image=image: tf.clip_by_value(
                    change(image, amount), 0.0, 1.0
                )
                for change, amount in zip(_OPERATIONS, tf.unstack(draws.jitter), strict=True)
            ],
        )
    return image * 255.0


def _crop(image: tf.Tensor, fill: float, draws: geometry.GeometryDraws, data: DataConfig) -> tf.Tensor:
    """Pads at the bottom and right with ``fill`` and cuts the crop out."""
    bottom, right = tf.unstack(tf.maximum(data.crop_size - tf.shape(image)[:2], 0))
    fill = tf.cast(fill, image.dtype)
    padded = tf.pad(image, [[0, bottom], [0, right], [0, 0]], constant_values=fill)
    return tf.slice(padded, [*tf.unstack(draws.offset), 0], [*data.crop_size, image.shape[-1]])
