"""Self-attention over Grad-CAM, recomputed in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.nn.layers import BatchNorm, SeedSequence
from pseudoseg_tf.nn.sgc import SelfAttention, attention_weights, propagate


def _attention(query: np.ndarray, key: np.ndarray, valid: np.ndarray) -> np.ndarray:
    logits = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    allowed = valid[:, :, None] * valid[:, None, :]
    # In float32, -1e9 on a whole row drowns its logits: a masked cell looks at all cells alike.
    weights = np.where(allowed > 0, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    weights[valid == 0] = 1
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("masked", [0, 4, 11])
@pytest.mark.parametrize("graph", [False, True])
def test_attention_weights(masked: int, graph: bool) -> None:
    random = np.random.default_rng(0)
    query, key = random.normal(size=(2, 2, 12, 8))
    valid = np.ones((2, 12))
    valid[1, :masked] = 0
    function = tf.function(attention_weights) if graph else attention_weights
    weights = function(*(tf.constant(x, tf.float32) for x in (query, key, valid)))
    np.testing.assert_allclose(weights, _attention(query, key, valid), atol=1e-6)


def test_background_is_two_minus_the_best_score_and_comes_first() -> None:
    cam = tf.constant([[[1.0, 0.0], [0.5, 0.25]]])
    scores = propagate(tf.constant([[[0.5, 0.5], [1.0, 0.0]]]), cam)
    # Rows: mean of both cells plus itself; the first cell plus itself.
    np.testing.assert_allclose(scores[0], [[0.25, 1.75, 0.125], [0.5, 1.5, 0.25]])


def test_without_a_background_the_scores_stand_alone() -> None:
    cam = tf.constant([[[1.0, 0.0], [0.5, 0.25]]])
    scores = propagate(tf.constant([[[0.5, 0.5], [1.0, 0.0]]]), cam, background=False)
    np.testing.assert_allclose(scores[0], [[1.75, 0.125], [1.5, 0.25]])


def test_the_first_version_has_no_skip_and_one_minus_the_best_score() -> None:
    cam = tf.constant([[[1.0, 0.0], [0.5, 0.25]]])
    scores = propagate(tf.constant([[[0.5, 0.5], [1.0, 0.0]]]), cam, skip=False)
    np.testing.assert_allclose(scores[0], [[0.25, 0.75, 0.125], [0, 1, 0]])


def test_an_image_without_any_class_is_all_background() -> None:
    scores = propagate(tf.fill([1, 4, 4], 0.25), tf.zeros([1, 4, 3]))
    np.testing.assert_array_equal(scores[0], [[2, 0, 0, 0]] * 4)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_layer_equals_numpy(batch: int, v2: bool, background: bool) -> None:
    random = np.random.default_rng(2)
    hypercolumn = random.normal(size=(batch, 3, 4, 6))
    cam = random.random((batch, 3, 4, 2))
    valid = np.ones((batch, 3, 4))
    valid[0, 0] = 0
    norm = BatchNorm(0.999, 1e-3, scale=False) if v2 else None
    layer = SelfAttention(2 + background, 5, norm, SeedSequence(0), background)
    logits = layer(*(tf.constant(x, tf.float32) for x in (hypercolumn, cam, valid)), training=True)

    query, key, last = (
        conv.kernel.numpy()[0, 0].astype(np.float64)
        for conv in (layer.query, layer.key, layer.pixel_normalization)
    )
    cells = hypercolumn.reshape(batch, 12, 6)
    weights = _attention(cells @ query, cells @ key, valid.reshape(batch, 12))
    scores = weights @ cam.reshape(batch, 12, 2) + v2 * cam.reshape(batch, 12, 2)
    if background:
        scores = np.concatenate([1 + v2 - scores.max(-1, keepdims=True), scores], -1)
    scores = scores @ last
    expected = (scores - scores.mean((0, 1))) / np.sqrt(scores.var((0, 1)) + 1e-3) if v2 else scores
    np.testing.assert_allclose(logits, expected.reshape(batch, 3, 4, 2 + background), atol=2e-5)


def test_inputs_are_constants_to_the_layer() -> None:
    hypercolumn, cam = tf.Variable(tf.ones([1, 2, 2, 4])), tf.Variable(tf.ones([1, 2, 2, 2]))
    layer = SelfAttention(3, 4, BatchNorm(0.999, 1e-3, scale=False), SeedSequence(0))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(hypercolumn, cam, tf.ones([1, 2, 2])) ** 2)
    gradients = tape.gradient(loss, [hypercolumn, cam, layer.query.kernel, layer.batch_norm.beta])
    assert [gradient is None for gradient in gradients] == [True, True, False, False]
