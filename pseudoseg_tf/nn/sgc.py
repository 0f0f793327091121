"""Self-attention Grad-CAM: the class maps of Grad-CAM spread along feature similarity (paper eq. 3)."""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import BatchNorm, Conv, SeedSequence

# Added to attention logits that involve a masked cell; the reference's constant.
_MASKED = -1e9


def attention_weights(query: tf.Tensor, key: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Softmax attention between cells, scaled by 1 / sqrt(dimension).

    Args:
        query, key: float32 [B, N, D].
        valid: float32 [B, N], 1 where a cell takes part.

    Returns:
        [B, N, N], rows sum to 1. A masked cell attends to all cells alike: -1e9 is on its whole row.
    """
    scale = tf.math.rsqrt(tf.cast(tf.shape(query)[-1], tf.float32))
    logits = tf.matmul(query, key, transpose_b=True) * scale
    both = valid[:, :, tf.newaxis] * valid[:, tf.newaxis, :]
    return tf.nn.softmax(logits + (1.0 - both) * _MASKED)


def propagate(weights: tf.Tensor, cam: tf.Tensor, skip: bool = True, background: bool = True) -> tf.Tensor:
    """Attention-weighted sum of the class scores, plus the scores themselves.

    Args:
        weights: [B, N, N].
        cam: [B, N, K] in [0, 1].
        skip: add the scores themselves.
        background: put a score for it before the others: 2 minus the largest of them.

    Returns:
        [B, N, K + 1], without ``background`` [B, N, K], in [0, 2]. Without ``skip`` in [0, 1], the background as
        1 minus the largest.
    """
    scores = tf.matmul(weights, cam)
    if skip:
        scores += cam
    if not background:
        return scores
    rest = (2.0 if skip else 1.0) - tf.reduce_max(scores, -1, keepdims=True)
    return tf.concat([rest, scores], -1)


class SelfAttention(tf_keras.layers.Layer):
    """Refines class scores with 1x1 key and query convolutions and a last 1x1 convolution with batch norm.

    Its inputs are constants to it: the SGC loss trains these weights only.

    Args:
        num_classes: C; one more than there are class maps if class 0 is the ``background``.
        batch_norm: None for the reference's first version (``att_v2=False``): no skip connection, and a bias
            in place of the batch norm.
    """

    def __init__(
        self,
        num_classes: int,
        dimension: int,
        batch_norm: BatchNorm | None,
        seeds: SeedSequence,
        background: bool = True,
    ):
        super().__init__(name="sgc")

        def conv(filters: int, name: str, use_bias: bool = False) -> Conv:
            initializer = tf_keras.initializers.GlorotUniform(seed=seeds())
            return Conv(filters, 1, use_bias=use_bias, kernel_initializer=initializer, name=name)

        self.query = conv(dimension, "query")
        self.key = conv(dimension, "key")
        self.pixel_normalization = conv(num_classes, "pixel_normalization", use_bias=batch_norm is None)
        self.batch_norm = batch_norm
        self._background = background

    def call(
        self, hypercolumn: tf.Tensor, cam: tf.Tensor, valid: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """[B, h, w, D], [B, h, w, K], [B, h, w] -> float32 sgc_logits [B, h, w, C]."""
        hypercolumn, cam = tf.stop_gradient(hypercolumn), tf.stop_gradient(cam)
        batch, rows, columns = tf.shape(cam)[0], tf.shape(cam)[1], tf.shape(cam)[2]

        def cells(x: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.cast(x, tf.float32), [batch, rows * columns, x.shape[-1]])

        weights = attention_weights(
            cells(self.query(hypercolumn)),
            cells(self.key(hypercolumn)),
            tf.reshape(tf.cast(valid, tf.float32), [batch, rows * columns]),
        )
        scores = propagate(weights, cells(cam), skip=self.batch_norm is not None, background=self._background)
        scores = tf.reshape(scores, [batch, rows, columns, scores.shape[-1]])
        logits = self.pixel_normalization(scores)
        if self.batch_norm is not None:
            logits = self.batch_norm(logits, training=training)
        return tf.cast(logits, tf.float32)
