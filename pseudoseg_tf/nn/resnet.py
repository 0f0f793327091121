"""ResNet v1 with the "beta" stem of DeepLab: three 3x3 convolutions instead of one 7x7."""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import BatchNormFactory, Conv, ConvBatchNorm, EndPoints, SeedSequence

# Bottleneck depth of the four blocks; their outputs have four times as many channels.
_DEPTHS = (64, 128, 256, 512)


def _conv_bn(
    filters: int,
    kernel_size: int,
    batch_norm: BatchNormFactory,
    seeds: SeedSequence,
    name: str,
    *,
    strides: int = 1,
    rate: int = 1,
    relu: bool = True,
) -> ConvBatchNorm:
    # slim's variance_scaling_initializer: truncated normal, std sqrt(1.3 * 2 / fan_in).
    initializer = tf_keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal", seed=seeds())
    conv = Conv(
        filters, kernel_size, strides=strides, rate=rate, kernel_initializer=initializer, name=f"{name}_conv"
    )
    return ConvBatchNorm(conv, batch_norm(f"{name}_bn"), tf.nn.relu if relu else None, name=name)


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
        else:
            shortcut = inputs[:, :: self._strides, :: self._strides]
        residual = self.conv1(inputs, training=training)
        residual = self.conv3(self.conv2(residual, training=training), training=training)
        return tf.nn.relu(shortcut + residual), residual


class ResNetV1Beta(tf_keras.layers.Layer):
    """ResNet-50 or -101 at output stride 16 or 8, as DeepLab's ``resnet_v1_*_beta``.

    The stride of a block sits in its **last** unit; strides beyond ``output_stride`` become dilation of what
    follows.

    Args:
        units: bottleneck units of the four blocks, e.g. (3, 4, 6, 3).
        output_stride: 16 or 8.
        batch_norm, seeds: as in ``MobileNetV1``.
    """

    def __init__(
        self,
        units: tuple[int, int, int, int],
        output_stride: int,
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
    ):
        super().__init__(name="resnet_v1")
        self.stem = [
            _conv_bn(64, 3, batch_norm, seeds, "conv1_1", strides=2),
            _conv_bn(64, 3, batch_norm, seeds, "conv1_2"),
            _conv_bn(128, 3, batch_norm, seeds, "conv1_3"),
        ]
        self.stages: list[list[Bottleneck]] = []
        stride, rate = 4, 1
        for block, (depth, count) in enumerate(zip(_DEPTHS, units, strict=True), start=1):
            stage = []
            for unit in range(1, count + 1):
                wanted = 2 if unit == count and block < 4 else 1
                strides = wanted if stride * wanted <= output_stride else 1
                stage.append(
                    Bottleneck(
                        depth,
                        batch_norm,
                        seeds,
                        strides=strides,
                        rate=rate,
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
        # Explicit padding keeps the pool centered whatever the parity; behind a ReLU, 0 is neutral.
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
        outputs, residuals = [], []
        for stage in self.stages:
            for unit in stage:
                x, residual = unit(x, training=training)
                residuals.append(residual)
            outputs.append(x)
        # The decoder's skip is the second unit's third convolution, before addition and ReLU.
        return EndPoints(residuals[1], outputs[2], outputs[3])
