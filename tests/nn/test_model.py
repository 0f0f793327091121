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
from pseudoseg_tf.nn.resnet import ResNetV1
from pseudoseg_tf.nn.tf1_names import tf1_names
from pseudoseg_tf.nn.xception import Xception65

SMALL = {"aspp_channels": 8, "decoder_channels": 8, "attention_dim": 8}


def _norm(name: str) -> BatchNorm:
    return BatchNorm(0.9, 1e-3, name=name)


def _backbone(kind: str, output_stride: int) -> tf_keras.layers.Layer:
    if kind == "mobilenet":
        return MobileNetV1(output_stride, 0.25, _norm, SeedSequence(0))
    if kind == "xception":
        return Xception65(output_stride, (1, 1, 1), _norm, SeedSequence(0))
    return ResNetV1(50, kind == "resnet_beta", output_stride, (1, 1, 1), _norm, SeedSequence(0))


@pytest.mark.parametrize(
    "kind", ["mobilenet", "resnet_beta", "resnet", pytest.param("xception", marks=pytest.mark.slow)]
)
def test_dilation_computes_the_strided_features_and_those_between(kind: str) -> None:
    images = tf.random.stateless_normal([1, 65, 65, 3], [0, 1])
    coarse, fine = _backbone(kind, 16)(images), _backbone(kind, 8)(images)
    assert coarse.last.shape[1:3] == coarse.stages[-2].shape[1:3] == (5, 5)
    assert fine.last.shape[1:3] == (9, 9)
    assert coarse.skip.shape[1:3] == (17, 17)
    np.testing.assert_allclose(fine.skip, coarse.skip, atol=1e-5)
    for at_eight, at_sixteen in zip(fine.stages[-2:], coarse.stages[-2:], strict=True):
        scale = np.abs(at_sixteen).max()
        np.testing.assert_allclose(at_eight[:, ::2, ::2] / scale, at_sixteen / scale, atol=1e-5)


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "resnet_v1_50_beta", "xception_65"])
@pytest.mark.parametrize("size", [(33, 33), (49, 65)])
def test_decoder_logits_have_stride_four(backbone: str, size: tuple[int, int]) -> None:
    model = build_model(5, backbone, **SMALL)
    logits = model(tf.zeros([2, *size, 3]), training=True)
    assert logits.dtype == tf.float32
    assert logits.shape == (2, (size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1, 5)


def test_mobilenet_has_the_parameters_of_keras_applications() -> None:
    assert build_model(21).backbone.count_params() == 3_228_864


@pytest.mark.needs_shared
@pytest.mark.parametrize("backbone", ["resnet_v1_50_beta", "resnet_v1_101_beta", "xception_65"])
def test_variables_have_names_shapes_decay_and_slots_of_the_reference(
    backbone: str, shared_dir: Path
) -> None:
    reference = json.loads((shared_dir / f"reference/A/variables_{backbone}.json").read_text())
    rows = {row[0]: row[1:] for row in reference["variables"] if row[0] != "global_step"}
    model = build_model(21, backbone)
    named = tf1_names(model)
    shapes = {name: math.prod(variable.shape) for name, variable in named.items()}
    assert shapes == {name: math.prod(row[0]) for name, row in rows.items()}
    regularized = {variable.ref() for variable in model.regularized_weights}
    for name, variable in named.items():
        assert (variable.trainable, variable.ref() in regularized) == tuple(rows[name][1:3]), name
    assert {f"{name}/Momentum" for name in named if named[name].trainable} == set(reference["momentum_slots"])


@pytest.mark.parametrize("attention_v2", [True, False])
@pytest.mark.parametrize("backbone", ["mobilenet_v1", "resnet_v1_50", "xception_65"])
def test_every_variable_has_one_name(backbone: str, attention_v2: bool) -> None:
    model = build_model(3, backbone, attention_v2=attention_v2, **SMALL)
    named = tf1_names(model)
    # Random states of dropout have none.
    nameless = {v.ref() for v in model.variables} - {v.ref() for v in named.values()}
    assert len(named) == len({v.ref() for v in named.values()})
    assert all(v.deref().dtype == tf.int64 for v in nameless)


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


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("mobilenet_v1", [-1, 0, 1]), ("resnet_v1_50", [-123.15, 127.5 - 115.90, 255 - 103.06])],
)
def test_normalize_makes_padding_the_mean_pixel(backbone: str, expected: list[float]) -> None:
    model = build_model(3, backbone, **SMALL)
    images = tf.constant([[[[0.0, 127.5, 255.0], [9.0, 9.0, 9.0]]]])
    normalized = model.normalize(images, tf.constant([[[1, 0]]], tf.uint8))
    np.testing.assert_allclose(normalized[0, 0], [expected, [0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(model.denormalize(normalized)[0, 0, 0], images[0, 0, 0], atol=1e-4)


@pytest.mark.slow
def test_multi_grid_changes_the_dilation_of_the_last_block_only() -> None:
    images = tf.random.stateless_normal([1, 97, 97, 3], [0, 1])
    for kind in (Xception65, lambda *arguments: ResNetV1(50, True, *arguments)):
        plain, grid = (kind(16, rates, _norm, SeedSequence(0))(images) for rates in ((1, 1, 1), (1, 2, 4)))
        np.testing.assert_array_equal(plain.stages[-2], grid.stages[-2])
        assert np.abs(plain.last - grid.last).max() > 1e-3


def test_xception_drops_out_half_of_the_pooled_features_in_training() -> None:
    model = build_model(3, "xception_65", **SMALL)
    end_points = model.features(tf.random.stateless_normal([1, 33, 33, 3], [0, 1]), training=False)
    kernel = model.classifier.kernel.numpy().T
    cells = 9
    _, weights = model.classify(end_points)
    np.testing.assert_allclose(weights, kernel / cells, rtol=1e-6)
    _, weights = model.classify(end_points, training=True)
    weights = weights.numpy()
    dropped = np.all(weights == 0, axis=0)
    assert 0.4 < dropped.mean() < 0.6
    np.testing.assert_allclose(weights[:, ~dropped], 2 * kernel[:, ~dropped] / cells, rtol=1e-6)


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
    image_logits, weights = model.classify(end_points)
    cam = model.grad_cam(end_points, weights, tf.ones([2, 2]))
    sgc = model.sgc(end_points, cam, tf.ones([2, 25, 25]), training=True)
    assert {x.dtype for x in (logits, image_logits, cam, sgc)} == {tf.float32}
    assert {v.dtype for v in model.variables} <= {tf.float32, tf.int64}
    close, exact = (m.classify(m.features(images, training=False))[0] for m in (model, reference))
    np.testing.assert_allclose(close, exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("backbone", "graph"),
    [
        ("mobilenet_v1", False),
        ("mobilenet_v1", True),
        pytest.param("resnet_v1_50", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_rematerialization_changes_nothing_but_memory(
    backbone: str, graph: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same outputs, gradients and statistics, which the second computation leaves alone."""
    recomputed = []
    plain_grad = tf.recompute_grad
    monkeypatch.setattr(tf, "recompute_grad", lambda block: recomputed.append(block) or plain_grad(block))
    width = {"width_multiplier": 0.25} if backbone == "mobilenet_v1" else {}
    images = tf.random.stateless_normal([2, 33, 33, 3], [0, 1])
    found = []
    for rematerialize in (False, True):
        model = build_model(
            3,
            backbone,  # type: ignore[arg-type]
            batch_norm_decay=0.9,
            rematerialize=rematerialize,
            fine_tune_batch_norm=not frozen,
            **width,
            **SMALL,
        )
        network = model.backbone

        def gradients(model: PseudoSegModel = model) -> list[tf.Tensor]:
            network = model.backbone
            with tf.GradientTape() as tape:
                end_points = model.features(images, training=True)
                loss = tf.reduce_mean(end_points.last**2) + tf.reduce_mean(end_points.skip**2)
            return [loss, *tape.gradient(loss, network.trainable_variables)]

        values = (tf.function(gradients) if graph else gradients)()
        assert bool(recomputed) == rematerialize
        found.append((values, network.non_trainable_variables))
    (plain, statistics), (again, statistics_again) = found
    for ours, theirs in zip(again, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())
    for ours, theirs in zip(statistics_again, statistics, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
