"""Grad-CAM by one Jacobian on the pooled vector, against a gradient tape per class on the feature map."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.grad_cam import classify_with_weights, divide_by_maximum, grad_cam


def _per_class(features: tf.Tensor, classifier: tf_keras.layers.Layer, labels: np.ndarray) -> np.ndarray:
    """The definition: weights are the spatial mean of d logit / d feature, class by class, image by image."""
    maps = np.zeros([*features.shape[:3], labels.shape[1]])
    for b in range(features.shape[0]):
        for k in range(labels.shape[1]):
            one = features[b : b + 1]
            with tf.GradientTape() as tape:
                tape.watch(one)
                logit = classifier(tf.reduce_mean(one, [1, 2]))[0, k]
            weights = tf.reduce_mean(tape.gradient(logit, one), [1, 2]).numpy()[0].astype(np.float64)
            raw = np.maximum(one.numpy()[0].astype(np.float64) @ weights, 0) * labels[b, k]
            maps[b, ..., k] = raw / max(raw.max(), 1e-5)
    return maps


def _cam(features: tf.Tensor, classifier: tf_keras.layers.Layer, labels: tf.Tensor) -> tf.Tensor:
    return grad_cam(features, classify_with_weights(classifier, features)[1], labels)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 7, 7, 16), (3, 4, 6, 8)])
@pytest.mark.parametrize("graph", [False, True])
def test_equals_a_tape_per_class(shape: tuple[int, ...], graph: bool) -> None:
    random = np.random.default_rng(0)
    features = tf.constant(np.maximum(random.normal(size=shape), 0), tf.float32)
    labels = random.integers(0, 2, (shape[0], 5)).astype(np.float32)
    classifier = tf_keras.layers.Dense(5)
    classifier.build([None, shape[-1]])
    classifier.set_weights([random.uniform(-1, 1, (shape[-1], 5)), np.zeros(5)])

    def ours() -> tf.Tensor:
        return _cam(features, classifier, tf.constant(labels))

    cam = (tf.function(ours) if graph else ours)()
    np.testing.assert_allclose(cam, _per_class(features, classifier, labels), atol=2e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_weights_are_the_mean_over_images_that_drop_out_different_features(graph: bool) -> None:
    """The reference averages gradients over batch and rows: its dropped-out classifiers share one set of weights."""
    kernel = tf.constant([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]])
    kept = tf.constant([[2.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    features = tf.constant(np.random.default_rng(0).random((2, 2, 4, 3)), tf.float32)

    def ours() -> tuple[tf.Tensor, tf.Tensor]:
        return classify_with_weights(lambda pooled: tf.matmul(pooled * kept, kernel), features)

    logits, weights = (tf.function(ours) if graph else ours)()
    np.testing.assert_allclose(weights, (kernel.numpy() * [[1], [0], [2]]).T / 8, rtol=1e-6)
    np.testing.assert_allclose(
        logits, (features.numpy().mean((1, 2)) * kept.numpy()) @ kernel.numpy(), rtol=1e-5
    )


def test_logits_train_features_and_classifier_and_weights_neither() -> None:
    features = tf.Variable(tf.ones([1, 2, 2, 3]))
    classifier = tf_keras.layers.Dense(2, kernel_initializer="ones")
    with tf.GradientTape(persistent=True) as tape:
        logits, weights = classify_with_weights(classifier, features)
    trained = [features, *classifier.trainable_variables]
    assert all(gradient is not None for gradient in tape.gradient(logits, trained))
    assert tape.gradient(weights, trained) == [None, None, None]


def test_absent_classes_are_zero_and_present_ones_reach_one() -> None:
    random = np.random.default_rng(1)
    features = tf.constant(np.abs(random.normal(size=(2, 3, 3, 4))), tf.float32)
    classifier = tf_keras.layers.Dense(2, kernel_initializer="ones")
    cam = _cam(features, classifier, tf.constant([[1.0, 0.0], [0.0, 0.0]])).numpy()
    assert cam[0, ..., 0].max() == 1
    assert not cam[0, ..., 1].any()
    assert not cam[1].any()


def test_a_maximum_below_the_threshold_is_not_brought_to_one() -> None:
    cam = tf.reshape(tf.constant([5e-6, 2e-6, 0.0, 0.0]), [1, 2, 2, 1])
    np.testing.assert_allclose(divide_by_maximum(cam)[0, ..., 0], [[0.5, 0.2], [0, 0]], rtol=1e-6)


def test_no_gradient_reaches_features_or_classifier() -> None:
    features = tf.Variable(tf.ones([1, 2, 2, 3]))
    classifier = tf_keras.layers.Dense(2, kernel_initializer="ones")
    with tf.GradientTape() as tape:
        cam = _cam(features, classifier, tf.ones([1, 2]))
    assert tape.gradient(cam, [features, *classifier.trainable_variables]) == [None, None, None]
