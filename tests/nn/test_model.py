"""Backbones and the assembled model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.layers import BatchNorm, SeedSequence
from pseudoseg_tf.nn.mobilenet import MobileNetV1
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.nn.resnet import ResNetV1Beta

SMALL = {"aspp_channels": 8, "decoder_channels": 8, "attention_dim": 8}


def _norm(name: str) -> BatchNorm:
    return BatchNorm(0.9, 1e-3, name=name)


def _backbone(kind: str, output_stride: int) -> tf_keras.layers.Layer:
    if kind == "mobilenet":
        return MobileNetV1(output_stride, 0.25, _norm, SeedSequence(0))
    return ResNetV1Beta((3, 1, 2, 2), output_stride, _norm, SeedSequence(0))


@pytest.mark.parametrize("kind", ["mobilenet", "resnet"])
def test_dilation_computes_the_strided_features_and_those_between(kind: str) -> None:
    images = tf.random.stateless_normal([1, 65, 65, 3], [0, 1])
    coarse, fine = _backbone(kind, 16)(images), _backbone(kind, 8)(images)
    assert coarse.last.shape[1:3] == coarse.penultimate.shape[1:3] == (5, 5)
    assert fine.last.shape[1:3] == (9, 9)
    assert coarse.skip.shape[1:3] == (17, 17)
    np.testing.assert_allclose(fine.skip, coarse.skip, atol=1e-5)
    np.testing.assert_allclose(fine.penultimate[:, ::2, ::2], coarse.penultimate, atol=1e-4)
    np.testing.assert_allclose(fine.last[:, ::2, ::2], coarse.last, atol=1e-4)


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "resnet_v1_50_beta"])
@pytest.mark.parametrize("size", [(33, 33), (49, 65)])
def test_decoder_logits_have_stride_four(backbone: str, size: tuple[int, int]) -> None:
    model = build_model(5, backbone, **SMALL)
    logits = model(tf.zeros([2, *size, 3]), training=True)
    assert logits.dtype == tf.float32
    assert logits.shape == (2, (size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1, 5)


def test_mobilenet_has_the_parameters_of_keras_applications() -> None:
    assert build_model(21).backbone.count_params() == 3_228_864


@pytest.mark.needs_shared
@pytest.mark.parametrize("backbone", ["resnet_v1_50_beta", "resnet_v1_101_beta"])
def test_resnet_and_heads_have_the_parameters_of_the_reference(backbone: str, shared_dir: Path) -> None:
    variables = json.loads((shared_dir / f"reference/A/variables_{backbone}.json").read_text())["variables"]
    expected = sum(math.prod(shape) for name, shape, *_ in variables if name != "global_step")
    assert build_model(21, backbone).count_params() == expected


def test_equal_seeds_give_equal_weights() -> None:
    first, again, other = (build_model(3, width_multiplier=0.25, seed=seed, **SMALL) for seed in (1, 1, 2))
    kernels = [
        [v.numpy() for v in m.trainable_variables if "kernel" in v.name] for m in (first, again, other)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(kernels[0], kernels[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(kernels[0], kernels[2], strict=True))


def test_weight_decay_leaves_out_depthwise_biases_norms_and_self_attention() -> None:
    model = build_model(3, width_multiplier=0.25, **SMALL)
    regularized = {v.ref() for v in model.regularized_weights}
    for variable in model.trainable_variables:
        parts = variable.name.split("/")
        is_kernel = parts[-1] == "kernel:0" and "sgc" not in parts
        assert (variable.ref() in regularized) == is_kernel, variable.name


def test_normalize_makes_padding_the_mean_pixel() -> None:
    images = tf.constant([[[[0.0, 127.5, 255.0], [9.0, 9.0, 9.0]]]])
    normalized = PseudoSegModel.normalize(images, tf.constant([[[1, 0]]], tf.uint8))
    np.testing.assert_allclose(normalized[0, 0], [[-1, 0, 1], [0, 0, 0]], atol=1e-6)


def test_frozen_batch_norm_leaves_the_backbone_statistics_alone() -> None:
    model = build_model(3, width_multiplier=0.25, fine_tune_batch_norm=False, batch_norm_decay=0.5, **SMALL)
    before = [v.numpy() for v in model.backbone.non_trainable_variables]
    images = tf.random.stateless_normal([2, 33, 33, 3], [0, 1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, training=True) ** 2)
    for old, new in zip(before, model.backbone.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # gamma and beta still learn.
    assert all(g is not None for g in tape.gradient(loss, model.backbone.trainable_variables))


def test_bfloat16_keeps_float32_where_it_matters() -> None:
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build_model(3, width_multiplier=0.25, **SMALL)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    reference = build_model(3, width_multiplier=0.25, **SMALL)
    images = tf.random.stateless_normal([2, 97, 97, 3], [0, 1])
    end_points = model.features(images, training=True)
    assert end_points.last.dtype == tf.bfloat16
    logits = model.decode(end_points, training=False)
    image_logits = model.classify(end_points)
    cam = model.grad_cam(end_points, tf.ones([2, 2]))
    sgc = model.sgc(end_points, cam, tf.ones([2, 97, 97]), training=True)
    assert {x.dtype for x in (logits, image_logits, cam, sgc)} == {tf.float32}
    assert {v.dtype for v in model.variables} <= {tf.float32, tf.int64}
    close, exact = (m.classify(m.features(images, training=False)) for m in (model, reference))
    np.testing.assert_allclose(close, exact, rtol=0.05, atol=0.02)
