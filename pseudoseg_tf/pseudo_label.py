"""Pseudo labels from two maps of the same weak view: calibrated fusion (paper eq. 4).

Plain functions of tensors, without variables; every result is a constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import tensorflow as tf

# Added to the mean square before the square root; the reference's constant.
_EPSILON = 1e-8

# Sums a tensor over the replicas of a distribution strategy; the default is one replica.
AcrossReplicas = Callable[[tf.Tensor], tf.Tensor]


def one_replica(x: tf.Tensor) -> tf.Tensor:
    """The sum over replicas when there is only one."""
    return x


def normalize(
    decoder_logits: tf.Tensor, sgc_logits: tf.Tensor, across_replicas: AcrossReplicas = one_replica
) -> tuple[tf.Tensor, tf.Tensor]:
    """Divides both maps by their joint root mean square: Norm(a, b) of the paper, as the reference computes it.

    One scalar for the whole batch, both maps and all pixels, so that neither map outweighs the other by scale.
    (The paper divides by the root of the *sum* of squares.)
    """
    squares = tf.reduce_sum(tf.square(decoder_logits)) + tf.reduce_sum(tf.square(sgc_logits))
    count = tf.cast(tf.size(decoder_logits) + tf.size(sgc_logits), tf.float32)
    scale = tf.math.rsqrt(across_replicas(squares) / across_replicas(count) + _EPSILON)
    return decoder_logits * scale, sgc_logits * scale


def sharpen(probabilities: tf.Tensor, temperature: float) -> tf.Tensor:
    """p^(1/T) / sum over classes; 1 changes nothing, smaller is sharper."""
    if temperature == 1.0:
        return probabilities
    # Of the ratio to the largest, whose power cannot vanish: the factor is the same in every class.
    largest = tf.reduce_max(probabilities, -1, keepdims=True)
    powered = tf.pow(probabilities / largest, 1.0 / temperature)
    return powered / tf.reduce_sum(powered, -1, keepdims=True)


def harden(probabilities: tf.Tensor) -> tf.Tensor:
    """One-hot of the most likely class."""
    return tf.one_hot(tf.argmax(probabilities, -1), probabilities.shape[-1], dtype=probabilities.dtype)


def fuse(
    decoder_logits: tf.Tensor,
    sgc_logits: tf.Tensor,
    *,
    gamma: float = 0.5,
    temperature: float = 0.5,
    normalize_maps: bool = True,
    across_replicas: AcrossReplicas = one_replica,
) -> tf.Tensor:
    """Sharpen(gamma softmax(Norm p) + (1 - gamma) softmax(Norm m)), paper eq. 4.

    Args:
        decoder_logits, sgc_logits: float32 [B, h, w, C] of the weak view.
        gamma: weight of the decoder.
        temperature: of the sharpening.
        normalize_maps: apply the joint ``normalize`` first.

    Returns:
        Soft pseudo label [B, h, w, C], sums to 1 over classes.

    Example:
        >>> fuse(tf.zeros([1, 2, 2, 3]), tf.zeros([1, 2, 2, 3]))[0, 0, 0].numpy()
        array([0.33333334, 0.33333334, 0.33333334], dtype=float32)
    """
    if normalize_maps:
        decoder_logits, sgc_logits = normalize(decoder_logits, sgc_logits, across_replicas)
    fused = gamma * tf.nn.softmax(decoder_logits) + (1.0 - gamma) * tf.nn.softmax(sgc_logits)
    return tf.stop_gradient(sharpen(fused, temperature))


def make_pseudo_label(
    decoder_logits: tf.Tensor,
    sgc_logits: tf.Tensor,
    *,
    source: Literal["fused", "decoder", "sgc"] = "fused",
    gamma: float = 0.5,
    temperature: float = 0.5,
    soft: bool = True,
    normalize_maps: bool = True,
    normalize_alone: bool = False,
    across_replicas: AcrossReplicas = one_replica,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The pseudo label of the chosen source and its confidence.

    Args:
        temperature: of soft labels; hard ones are not sharpened, which would not change them.
        normalize_maps: of the fusion: the joint ``normalize`` first.
        normalize_alone: the joint ``normalize`` also where one map alone is the source: a term of the fusion.

    Returns:
        label [B, h, w, C], soft or one-hot; confidence [B, h, w], the largest (sharpened) probability.
    """
    if not soft:
        temperature = 1.0
    if source == "fused":
        soft_label = fuse(
            decoder_logits,
            sgc_logits,
            gamma=gamma,
            temperature=temperature,
            normalize_maps=normalize_maps,
            across_replicas=across_replicas,
        )
    else:
        if normalize_alone:
            decoder_logits, sgc_logits = normalize(decoder_logits, sgc_logits, across_replicas)
        logits = decoder_logits if source == "decoder" else sgc_logits
        soft_label = tf.stop_gradient(sharpen(tf.nn.softmax(logits), temperature))
    return soft_label if soft else harden(soft_label), tf.reduce_max(soft_label, -1)
