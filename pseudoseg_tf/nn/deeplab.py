"""DeepLabv3+ heads: atrous spatial pyramid pooling and the stride-4 decoder (Chen et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import (
    BatchNormFactory,
    Conv,
    ConvBatchNorm,
    Dropout,
    EndPoints,
    SeedSequence,
    SeparableConv,
    conv_batch_norm,
    resize_align_corners,
    truncated_normal,
)

# Channels to which the skip features are reduced.
_SKIP_CHANNELS = 48


def _projection(channels: int, batch_norm: BatchNormFactory, seeds: SeedSequence, name: str) -> ConvBatchNorm:
    initializer = tf_keras.initializers.GlorotUniform(seed=seeds())
    return conv_batch_norm(channels, 1, initializer, batch_norm, name)


class ASPP(tf_keras.layers.Layer):
    """Image pooling, a 1x1 branch and dilated branches, concatenated in this order and projected."""

    def __init__(
        self,
        channels: int,
        rates: Sequence[int],
        keep_prob: float,
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
    ):
        super().__init__(name="aspp")
        self.image_pooling = _projection(channels, batch_norm, seeds, "image_pooling")
        self.aspp0 = _projection(channels, batch_norm, seeds, "aspp0")
        self.branches = [
            SeparableConv(channels, batch_norm, seeds, rate=rate, name=f"aspp{i}")
            for i, rate in enumerate(rates, start=1)
        ]
        self.concat_projection = _projection(channels, batch_norm, seeds, "concat_projection")
        self.dropout = Dropout(keep_prob, seeds(), name="aspp_dropout")

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, F] -> [B, h, w, channels]."""
        # A sum over all cells: in float32 whatever the precision policy.
        mean = tf.reduce_mean(tf.cast(features, tf.float32), [1, 2], keepdims=True)
        pooled = self.image_pooling(tf.cast(mean, features.dtype), training=training)
        aspp0 = self.aspp0(features, training=training)
        # A sum, because the quantized form of tf.broadcast_to in TFLite has wrong values.
        outputs = [pooled + tf.zeros_like(aspp0), aspp0]
        outputs += [branch(features, training=training) for branch in self.branches]
        projected = self.concat_projection(tf.concat(outputs, -1), training=training)
        return self.dropout(projected, training=training)


class Decoder(tf_keras.layers.Layer):
    """Refines ASPP features with stride-4 features into class logits."""

    def __init__(self, channels: int, num_classes: int, batch_norm: BatchNormFactory, seeds: SeedSequence):
        super().__init__(name="decoder")
        self.feature_projection = _projection(_SKIP_CHANNELS, batch_norm, seeds, "feature_projection0")
        self.convs = [SeparableConv(channels, batch_norm, seeds, name=f"decoder_conv{i}") for i in range(2)]
        self.logits = Conv(
            num_classes, 1, use_bias=True, kernel_initializer=truncated_normal(0.01, seeds()), name="logits"
        )

    def call(self, aspp: tf.Tensor, skip: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, channels], [B, 4h, 4w, S] -> float32 decoder_logits [B, 4h, 4w, C]."""
        return tf.cast(self.logits(self.refine(aspp, skip, training=training)), tf.float32)

    def refine(self, aspp: tf.Tensor, skip: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The features behind the logits, [B, 4h, 4w, channels]."""
        skip = self.feature_projection(skip, training=training)
        aspp = tf.cast(resize_align_corners(aspp, tf.shape(skip)[1:3]), skip.dtype)
        x = tf.concat([aspp, skip], -1)
        for conv in self.convs:
            x = conv(x, training=training)
        return x


class DeepLabHead(tf_keras.layers.Layer):
    """ASPP and decoder in one call on a backbone's end points."""

    def __init__(self, aspp: ASPP, decoder: Decoder):
        super().__init__(name="deeplab_head")
        self.aspp = aspp
        self.decoder = decoder

    def call(self, end_points: EndPoints, training: bool = False) -> tf.Tensor:
        return self.decoder(self.aspp(end_points.last, training=training), end_points.skip, training=training)

    def units(self) -> Iterator[tuple[str, ConvBatchNorm]]:
        """Every convolution but the logits with its scope in a TensorFlow 1 checkpoint of DeepLab."""
        for unit in (self.aspp.image_pooling, self.aspp.aspp0, self.aspp.concat_projection):
            yield unit.name, unit
        for branch in self.aspp.branches:
            yield from branch.units(branch.name)
        projection = self.decoder.feature_projection
        yield f"decoder/{projection.name}", projection
        for conv in self.decoder.convs:
            yield from conv.units(f"decoder/{conv.name}")
