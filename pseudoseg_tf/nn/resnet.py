"""ResNet v1 (He et al., 2016) with the strides and dilation of DeepLab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import (
    Backbone,
    BatchNormFactory,
    ConvBatchNorm,
    EndPoints,
    SeedSequence,
    centered,
    conv_batch_norm,
)

# Bottleneck depth of the four blocks; their outputs have four times as many channels.
_DEPTHS = (64, 128, 256, 512)
# Units of the four blocks.
_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _conv_bn(
    filters: int,
    kernel_size: int,
    batch_norm: BatchNormFactory,
    seeds: SeedSequence,
    name: str,
    **geometry: Any,
) -> ConvBatchNorm:
    # slim's variance_scaling_initializer: truncated normal, std sqrt(1.3 * 2 / fan_in).
    initializer = tf_keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal", seed=seeds())
    return conv_batch_norm(filters, kernel_size, initializer, batch_norm, name, **geometry)


class Bottleneck(tf_keras.layers.Layer):
    """A bottleneck unit whose stride, if any, sits on the 3x3 convolution."""

    def __init__(
        self,
        depth: int,
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
        *,
        strides: int,
        rate: int,
        project: bool,
        name: str,
    ):
        super().__init__(name=name)
        self._strides = strides
        self.shortcut = (
            _conv_bn(4 * depth, 1, batch_norm, seeds, "shortcut", strides=strides, relu=False)
            if project
            else None
        )
        self.conv1 = _conv_bn(depth, 1, batch_norm, seeds, "conv1")
        self.conv2 = _conv_bn(depth, 3, batch_norm, seeds, "conv2", strides=strides, rate=rate)
        self.conv3 = _conv_bn(4 * depth, 1, batch_norm, seeds, "conv3", relu=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the unit's output and its residual branch before addition and ReLU."""
        if self.shortcut is not None:
            shortcut = self.shortcut(inputs, training=training)
        elif self._strides > 1:
            # Every second cell: a strided slice takes ten times as long.
            shortcut = tf.nn.avg_pool2d(inputs, 1, self._strides, "VALID")
        else:
            shortcut = inputs
        residual = self.conv1(inputs, training=training)
        residual = self.conv3(self.conv2(residual, training=training), training=training)
        return tf.nn.relu(shortcut + residual), residual


class ResNetV1(Backbone):
    """ResNet-50 or -101 at output stride 16 or 8.

    The stride of a block sits in its **last** unit; strides beyond ``output_stride`` become dilation of what
    follows.

    Args:
        depth: 50 or 101.
        beta: DeepLab's stem of three 3x3 convolutions (``resnet_v1_*_beta``); else one of 7x7.
        output_stride: 16 or 8.
        multi_grid: dilation of the last block's three units, as a multiple of the block's.
        batch_norm, seeds: as in ``MobileNetV1``.
    """

    def __init__(
        self,
        depth: Literal[50, 101],
        beta: bool,
        output_stride: int,
        multi_grid: Sequence[int],
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
    ):
        super().__init__(name="resnet_v1")
        # Without "beta": the stem tells the two apart.
        self.scope = f"resnet_v1_{depth}"
        self.stem = (
            [
                _conv_bn(64, 3, batch_norm, seeds, "conv1_1", strides=2),
                _conv_bn(64, 3, batch_norm, seeds, "conv1_2"),
                _conv_bn(128, 3, batch_norm, seeds, "conv1_3"),
            ]
            if beta
            else [_conv_bn(64, 7, batch_norm, seeds, "conv1", strides=2)]
        )
        self.stages: list[list[Bottleneck]] = []
        stride, rate = 4, 1
        for block, (channels, count) in enumerate(zip(_DEPTHS, _UNITS[depth], strict=True), start=1):
            stage = []
            for unit in range(1, count + 1):
                wanted = 2 if unit == count and block < len(_DEPTHS) else 1
                strides = wanted if stride * wanted <= output_stride else 1
                stage.append(
                    Bottleneck(
                        channels,
                        batch_norm,
                        seeds,
                        strides=strides,
                        rate=rate * multi_grid[unit - 1] if block == len(_DEPTHS) else rate,
                        project=unit == 1,
                        name=f"block{block}_unit_{unit}",
                    )
                )
                stride *= strides
                rate *= wanted // strides
            self.stages.append(stage)

    def call(self, images: tf.Tensor, training: bool = False) -> EndPoints:
        """``images``: normalized float [B, H, W, 3]."""
        x = images
        for conv in self.stem:
            x = conv(x, training=training)
        # Behind a ReLU zeros are neutral.
        x, padding = centered(x, stride=2, kernel_size=3)
        x = tf.nn.max_pool2d(x, 3, 2, padding)
        outputs, residuals = [], []
        for stage in self.stages:
            for unit in stage:
                x, residual = self.run(unit, x, training)
                residuals.append(residual)
            outputs.append(x)
        # The decoder's skip is the second unit's third convolution, before addition and ReLU.
        return EndPoints(residuals[1], tuple(outputs))

    def units(self) -> Iterator[tuple[str, ConvBatchNorm]]:
        """Every convolution with its scope in a TensorFlow 1 checkpoint of DeepLab or slim."""
        for stem in self.stem:
            yield f"{self.scope}/{stem.name}", stem
        for block, stage in enumerate(self.stages, start=1):
            for number, unit in enumerate(stage, start=1):
                scope = f"{self.scope}/block{block}/unit_{number}/bottleneck_v1"
                for conv in (unit.shortcut, unit.conv1, unit.conv2, unit.conv3):
                    if conv is not None:
                        yield f"{scope}/{conv.name}", conv
