"""Xception-65 as DeepLab modified it (Chollet, 2017; Chen et al., 2018): the backbone of the paper's main results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import (
    Backbone,
    BatchNormFactory,
    ConvBatchNorm,
    EndPoints,
    SeedSequence,
    SeparableConv,
    conv_batch_norm,
    truncated_normal,
)

# Standard deviation of every initial kernel.
_STDDEV = 0.09

Skip = Literal["conv", "sum", "none"]


class _Block(NamedTuple):
    """Modules of one kind, in a row; a stride sits in the last separable convolution of its module."""

    scope: str
    depths: tuple[int, int, int]
    skip: Skip
    units: int = 1
    strides: int = 1
    relu_inside: bool = False


_BLOCKS = (
    _Block("entry_flow/block1", (128, 128, 128), "conv", strides=2),
    _Block("entry_flow/block2", (256, 256, 256), "conv", strides=2),
    _Block("entry_flow/block3", (728, 728, 728), "conv", strides=2),
    _Block("middle_flow/block1", (728, 728, 728), "sum", units=16),
    _Block("exit_flow/block1", (728, 1024, 1024), "conv", strides=2),
    _Block("exit_flow/block2", (1536, 1536, 2048), "none", relu_inside=True),
)
# The decoder's skip: second separable convolution of this block, before ReLU and addition.
_SKIP_BLOCK = "entry_flow/block2"


def _conv_bn(
    filters: int,
    kernel_size: int,
    batch_norm: BatchNormFactory,
    seeds: SeedSequence,
    name: str,
    **geometry: Any,
) -> ConvBatchNorm:
    initializer = truncated_normal(_STDDEV, seeds())
    return conv_batch_norm(filters, kernel_size, initializer, batch_norm, name, **geometry)


class XceptionModule(tf_keras.layers.Layer):
    """Three separable convolutions and a shortcut, which sees the module's input before any ReLU.

    Args:
        depths: channels of the three convolutions.
        skip: shortcut by 1x1 convolution, by addition of the input, or none.
        strides: of the last convolution and the shortcut.
        rates: dilation of the three convolutions.
        relu_inside: ReLU behind each depthwise and pointwise half; else before each separable convolution.
    """

    def __init__(
        self,
        depths: tuple[int, int, int],
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
        *,
        skip: Skip,
        strides: int,
        rates: Sequence[int],
        relu_inside: bool,
        name: str,
    ):
        super().__init__(name=name)
        self._relu_inside = relu_inside
        self._adds_input = skip == "sum"
        self.convs = [
            SeparableConv(
                depth,
                batch_norm,
                seeds,
                strides=strides if number == len(depths) else 1,
                rate=rate,
                relu=relu_inside,
                stddevs=(_STDDEV, _STDDEV),
                name=f"separable_conv{number}",
            )
            for number, (depth, rate) in enumerate(zip(depths, rates, strict=True), start=1)
        ]
        self.shortcut = (
            _conv_bn(depths[-1], 1, batch_norm, seeds, "shortcut", strides=strides, relu=False)
            if skip == "conv"
            else None
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the module's output and that of its second convolution."""
        x, outputs = inputs, []
        for conv in self.convs:
            x = conv(x if self._relu_inside else tf.nn.relu(x), training=training)
            outputs.append(x)
        if self.shortcut is not None:
            x += self.shortcut(inputs, training=training)
        elif self._adds_input:
            x += inputs
        return x, outputs[1]


class Xception65(Backbone):
    """Xception-65 at output stride 16 or 8; strides beyond it become dilation of what follows.

    Its stages are the three blocks of the entry flow, the middle flow and the two blocks of the exit flow.

    Args:
        output_stride: 16 or 8.
        multi_grid: dilation of the last block's three convolutions, as a multiple of the block's.
        batch_norm: makes a batch norm of a given name.
        seeds: seeds of the initializers.
    """

    scope = "xception_65"

    def __init__(
        self,
        output_stride: int,
        multi_grid: Sequence[int],
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
    ):
        super().__init__(name=self.scope)
        self.stem = [
            _conv_bn(32, 3, batch_norm, seeds, "conv1_1", strides=2),
            _conv_bn(64, 3, batch_norm, seeds, "conv1_2"),
        ]
        self.blocks: list[list[XceptionModule]] = []
        stride, rate = 2, 1
        for block in _BLOCKS:
            strides = block.strides if stride * block.strides <= output_stride else 1
            grid = multi_grid if block is _BLOCKS[-1] else (1, 1, 1)
            self.blocks.append(
                [
                    XceptionModule(
                        block.depths,
                        batch_norm,
                        seeds,
                        skip=block.skip,
                        strides=strides,
                        rates=[rate * factor for factor in grid],
                        relu_inside=block.relu_inside,
                        name=f"{block.scope.replace('/', '_')}_unit_{unit}",
                    )
                    for unit in range(1, block.units + 1)
                ]
            )
            stride *= strides
            rate *= block.strides // strides

    def call(self, images: tf.Tensor, training: bool = False) -> EndPoints:
        """``images``: normalized float [B, H, W, 3]."""
        x = images
        for conv in self.stem:
            x = conv(x, training=training)
        stages = []
        for block, modules in zip(_BLOCKS, self.blocks, strict=True):
            for module in modules:
                x, second = self.run(module, x, training)
            stages.append(x)
            if block.scope == _SKIP_BLOCK:
                skip = second
        return EndPoints(skip, tuple(stages))

    def units(self) -> Iterator[tuple[str, ConvBatchNorm]]:
        """Every convolution with its scope in a TensorFlow 1 checkpoint of DeepLab."""
        for number, conv in enumerate(self.stem, start=1):
            yield f"{self.scope}/entry_flow/conv1_{number}", conv
        for block, modules in zip(_BLOCKS, self.blocks, strict=True):
            for unit, module in enumerate(modules, start=1):
                scope = f"{self.scope}/{block.scope}/unit_{unit}/xception_module"
                for number, conv in enumerate(module.convs, start=1):
                    yield from conv.units(f"{scope}/separable_conv{number}")
                if module.shortcut is not None:
                    yield f"{scope}/shortcut", module.shortcut
