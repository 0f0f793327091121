"""MobileNetV1 with dilation instead of the last strides (Howard et al., 2017)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import (
    Backbone,
    BatchNormFactory,
    Conv,
    ConvBatchNorm,
    DepthwiseConv,
    EndPoints,
    SeedSequence,
)

# Filters and stride of the 13 depthwise-separable blocks.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
# Blocks whose outputs are the end points, counted from 1: the decoder's skip, and the last of each resolution.
_SKIP, _STAGES = 3, (3, 5, 11, 13)


def _pair(depthwise: ConvBatchNorm, pointwise: ConvBatchNorm, x: tf.Tensor, training: bool) -> tf.Tensor:
    return pointwise(depthwise(x, training=training), training=training)


class MobileNetV1(Backbone):
    """Backbone of the small runs; its layers carry the names of Keras-Applications' ``MobileNet``.

    Args:
        output_stride: 16 or 8; strides beyond it become dilation.
        width: channels as a multiple of the published ones, at least 8 each.
        batch_norm: makes a batch norm of a given name.
        seeds: seeds of the initializers.
    """

    scope = "MobilenetV1"

    def __init__(self, output_stride: int, width: float, batch_norm: BatchNormFactory, seeds: SeedSequence):
        super().__init__(name="mobilenet_v1")

        def unit(conv: Conv | DepthwiseConv) -> ConvBatchNorm:
            return ConvBatchNorm(conv, batch_norm(f"{conv.name}_bn"), tf.nn.relu6, name=f"{conv.name}_unit")

        def initializer() -> tf_keras.initializers.Initializer:
            return tf_keras.initializers.HeNormal(seed=seeds())

        def channels(filters: int) -> int:
            return max(8, round(filters * width))

        self.stem = unit(Conv(channels(32), 3, strides=2, kernel_initializer=initializer(), name="conv1"))
        self.blocks: list[tuple[ConvBatchNorm, ConvBatchNorm]] = []
        stride, rate = 2, 1
        for number, (filters, wanted) in enumerate(_BLOCKS, start=1):
            # A dropped stride dilates what follows it, not the block it stood in.
            strides, block_rate = (wanted, rate) if stride * wanted <= output_stride else (1, rate)
            rate = rate if strides == wanted else rate * wanted
            stride *= strides
            depthwise = DepthwiseConv(
                strides=strides,
                rate=block_rate,
                kernel_initializer=tf_keras.initializers.RandomNormal(stddev=(2 / 9) ** 0.5, seed=seeds()),
                name=f"conv_dw_{number}",
            )
            pointwise = Conv(channels(filters), 1, kernel_initializer=initializer(), name=f"conv_pw_{number}")
            self.blocks.append((unit(depthwise), unit(pointwise)))

    def call(self, images: tf.Tensor, training: bool = False) -> EndPoints:
        """``images``: normalized float [B, H, W, 3]."""
        x = self.stem(images, training=training)
        outputs = []
        for depthwise, pointwise in self.blocks:
            x = self.run(functools.partial(_pair, depthwise, pointwise), x, training)
            outputs.append(x)
        return EndPoints(outputs[_SKIP - 1], tuple(outputs[stage - 1] for stage in _STAGES))

    def units(self) -> Iterator[tuple[str, ConvBatchNorm]]:
        """Every convolution with its scope in a TensorFlow 1 checkpoint of slim."""
        yield f"{self.scope}/Conv2d_0", self.stem
        for number, (depthwise, pointwise) in enumerate(self.blocks, start=1):
            yield f"{self.scope}/Conv2d_{number}_depthwise", depthwise
            yield f"{self.scope}/Conv2d_{number}_pointwise", pointwise
