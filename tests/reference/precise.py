"""The training-mode passes once more in float64: how far rounding alone carries a float32 implementation.

Batch statistics make these passes ill-conditioned, so two float32 implementations of the same network differ by
more than either's tolerance. What both are compared with here has no such error.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.config import Config, PseudoConfig
from pseudoseg_tf.nn import deeplab
from pseudoseg_tf.nn.layers import BatchNorm, resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel
from tests.reference import formula, network
from tests.reference.tolerances import Array


def training_passes(config: Config, seed: int, sgc_logits: Array) -> dict[str, Array]:
    """What a training step computes with batch statistics, in float64, under its names in ``step_*.npz``.

    Args:
      sgc_logits: of the weak view, at decoder resolution; they come from a pass with moving statistics, which is
        well-conditioned, so those of the float32 step do.
    """
    crop, batch = config.data.crop_size[0], config.data.batch_labeled
    inputs, labeled = formula.training_inputs(seed, crop, batch, network.NUM_CLASSES)
    logits, statistics = {}, {}
    with _double_precision() as noted:
        model = network.formula_model(config)
        views = {"logits_weak": inputs.weak, "logits_strong": inputs.strong, "semantic_seg": labeled.image}
        for name, pixels in views.items():
            noted.clear()
            images = tf.cast(model.normalize(tf.constant(pixels), tf.ones(pixels.shape[:3])), tf.float64)
            points = model.features(images, training=True)
            logits[name] = model.decode(points, training=True).numpy()
            statistics[name] = dict(noted)
    in_backbone = {id(layer) for layer in model.backbone.submodules}
    twice_weak = config.train.mode == "weakly"
    for name, (layer, index) in network.moving_statistics(model).items():
        if id(layer) not in statistics["semantic_seg"]:
            continue
        weak, strong, last = (statistics[view][id(layer)][index] for view in views)
        # One pass of ours is two of theirs through the backbone.
        many = id(layer) in in_backbone
        passes = [weak] * (1 + (many and twice_weak)) + [strong] + [last] * (1 + many)
        logits[f"bn:{name}:batch_values"] = np.stack(passes)
    fused = functools.partial(_pseudo_label, config.pseudo, logits["logits_weak"], sgc_logits)
    if config.pseudo.soft:
        logits["pseudo_label"] = fused(config.pseudo.temperature)
    logits["max_prob_avg"] = fused(1.0).max(-1)
    logits["max_prob_avg_t"] = fused(config.pseudo.temperature).max(-1)
    logits["max_prob_weak"] = _softmax(logits["logits_weak"]).max(-1)
    return logits | _labeled_attention(model, labeled, [stage.numpy() for stage in points.stages], logits)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _pseudo_label(
    pseudo: PseudoConfig, decoder_logits: Array, sgc_logits: Array, temperature: float
) -> Array:
    """Paper eq. 4 in numpy."""
    maps = np.stack([decoder_logits, sgc_logits.astype(np.float64)])
    if pseudo.normalize and pseudo.source == "fused":
        maps = maps / np.sqrt(np.mean(maps**2) + 1e-8)
    decoder, attention = _softmax(maps)
    weight = {"fused": pseudo.gamma, "decoder": 1.0, "sgc": 0.0}[pseudo.source]
    sharpened = (weight * decoder + (1 - weight) * attention) ** (1 / temperature)
    return sharpened / sharpened.sum(-1, keepdims=True)


def _labeled_attention(
    model: PseudoSegModel, labeled: formula.Labeled, stages: list[Array], logits: Mapping[str, Array]
) -> dict[str, Array]:
    """Grad-CAM and self-attention (second version) of the labeled images from float64 stages."""
    weights = model.classifier.kernel.numpy().astype(np.float64) / stages[-1][0, ..., 0].size
    cam = np.maximum(stages[-1] @ weights, 0) * formula.image_labels(labeled.labels)[:, None, None]
    peak = cam.max((1, 2), keepdims=True)
    cam = np.where(peak > 0, cam / np.maximum(peak, 1e-5), 0)
    result = {
        "grad_cam_labeled_raw": cam,
        "cam_with_bg_labeled_raw": np.concatenate([1 - cam.max(-1, keepdims=True), cam], -1),
    }
    sgc = model.sgc_attention
    if sgc.batch_norm is None:
        return result
    rows = cam.shape[0], cam.shape[1] * cam.shape[2], -1
    key, query, last = (
        conv.kernel.numpy()[0, 0].astype(np.float64) for conv in (sgc.key, sgc.query, sgc.pixel_normalization)
    )
    hypercolumn = np.concatenate([stages[-1], stages[-2]], -1).reshape(rows)
    valid = tf.constant(labeled.valid, tf.float32)
    for size in (logits["semantic_seg"].shape[1:3], cam.shape[1:3]):
        valid = resize_mask(valid, size)
    seen = valid.numpy().reshape(rows[:2])
    scores = (hypercolumn @ query) @ (hypercolumn @ key).swapaxes(1, 2) / np.sqrt(key.shape[-1])
    scores = np.where(seen[:, :, None] * seen[:, None] > 0, scores, -np.inf)
    # A masked cell attends to all cells alike.
    scores = np.where(seen[:, :, None] > 0, scores, 0)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    values = (attention @ cam.reshape(rows)) + cam.reshape(rows)
    values = np.concatenate([2 - values.max(-1, keepdims=True), values], -1) @ last
    normalized = (values - values.mean((0, 1))) / np.sqrt(values.var((0, 1)) + 1e-3)
    sgc_logits = (normalized + sgc.batch_norm.beta.numpy()).reshape(*cam.shape[:3], -1)
    return {
        **result,
        "attention_labeled": attention,
        "att_logits_labeled": sgc_logits,
        "att_logits_labeled_raw": sgc_logits,
    }


@contextlib.contextmanager
def _double_precision() -> Iterator[dict[int, tuple[Array, Array]]]:
    """Within it, models are made and run in float64; yields each batch norm's mean and unbiased variance."""
    statistics: dict[int, tuple[Array, Array]] = {}

    def batch_norm(layer: BatchNorm, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        gamma = 1.0 if layer.gamma is None else tf.cast(layer.gamma, tf.float64)
        x = tf.cast(inputs, tf.float64)
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            count = float(np.prod(x.shape[:3]))
            statistics[id(layer)] = mean.numpy(), variance.numpy() * count / max(count - 1.0, 1.0)
        else:
            mean, variance = (tf.cast(v, tf.float64) for v in (layer.moving_mean, layer.moving_variance))
        scale = gamma * tf.math.rsqrt(variance + layer._epsilon)
        return (x - mean) * scale + tf.cast(layer.beta, tf.float64)

    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("float64")
    try:
        with (
            mock.patch.object(BatchNorm, "call", batch_norm),
            mock.patch.object(deeplab, "resize_align_corners", _resize),
        ):
            yield statistics
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)


def _resize(x: tf.Tensor, size: Any) -> tf.Tensor:
    """Bilinear with aligned corners: TensorFlow's own returns float32."""
    result = tf.cast(x, tf.float64)
    for axis in (1, 2):
        source, target = result.shape[axis], int(size[axis - 1])
        position = np.arange(target) * ((source - 1) / max(target - 1, 1))
        left = np.minimum(position.astype(int), max(source - 2, 0))
        matrix = np.zeros((target, source))
        matrix[np.arange(target), left] = 1 - (position - left)
        matrix[np.arange(target), np.minimum(left + 1, source - 1)] += position - left
        result = tf.einsum("btwc,st->bswc" if axis == 1 else "bhtc,st->bhsc", result, tf.constant(matrix))
    return result
