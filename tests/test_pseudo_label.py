"""Fusion, sharpening and normalization (paper eq. 4), against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pseudoseg_tf.pseudo_label import fuse, harden, make_pseudo_label, normalize, sharpen

SHAPES = [(1, 1, 1, 2), (2, 3, 5, 4), (1, 7, 7, 21)]


def _maps(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0, 3, shape), random.normal(0, 0.2, shape)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _fused(decoder: np.ndarray, sgc: np.ndarray, gamma: float, temperature: float) -> np.ndarray:
    root = np.sqrt(np.mean(np.concatenate([decoder, sgc]) ** 2) + 1e-8)
    mixed = gamma * _softmax(decoder / root) + (1 - gamma) * _softmax(sgc / root)
    powered = mixed ** (1 / temperature)
    return powered / powered.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("gamma", "temperature"), [(0.5, 0.5), (0.3, 1.0), (1.0, 0.1), (0.0, 0.7)])
@pytest.mark.parametrize("graph", [False, True])
def test_fuse_is_equation_4(shape: tuple[int, ...], gamma: float, temperature: float, graph: bool) -> None:
    decoder, sgc = _maps(shape)
    function = tf.function(fuse) if graph else fuse
    fused = function(
        tf.constant(decoder, tf.float32), tf.constant(sgc, tf.float32), gamma=gamma, temperature=temperature
    )
    np.testing.assert_allclose(fused, _fused(decoder, sgc, gamma, temperature), atol=2e-6)


def test_normalize_divides_both_maps_by_one_root_mean_square() -> None:
    decoder, sgc = tf.constant([[3.0, 4.0]]), tf.constant([[0.0, 0.0]])
    a, b = normalize(decoder, sgc)
    # Mean square of (3, 4, 0, 0) is 25 / 4.
    np.testing.assert_allclose(a, [[1.2, 1.6]], rtol=1e-6)
    np.testing.assert_array_equal(b, [[0.0, 0.0]])


def test_normalize_counts_all_replicas() -> None:
    decoder, sgc = (tf.constant(x, tf.float32) for x in _maps((2, 3, 3, 4)))
    whole = normalize(decoder, sgc)[0]
    # The other replica holds the same numbers: sums and counts double, the scale stays.
    halves = normalize(decoder, sgc, lambda x: 2 * x)[0]
    np.testing.assert_allclose(halves, whole, rtol=1e-6)


@settings(max_examples=50)
@given(
    hnp.arrays(np.float32, (2, 5), elements=st.floats(-20, 20, width=32)),
    st.sampled_from([1e-6, 0.01, 0.1, 0.3, 0.5, 0.7, 1.0]),
)
def test_sharpen_keeps_a_distribution_and_its_order(logits: np.ndarray, temperature: float) -> None:
    probabilities = tf.nn.softmax(logits)
    sharp = sharpen(probabilities, temperature).numpy()
    np.testing.assert_allclose(sharp.sum(-1), 1, atol=1e-5)
    best = probabilities.numpy().argmax(-1)
    rows = np.arange(2)
    assert (sharp[rows, best] >= sharp.max(-1) - 1e-6).all()
    assert (sharp[rows, best] >= probabilities.numpy()[rows, best] - 1e-5).all()


def test_sharpen_squares_at_one_half() -> None:
    np.testing.assert_allclose(sharpen(tf.constant([0.25, 0.75]), 0.5), [0.1, 0.9], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 0.02, 1e-6])
def test_sharpen_keeps_equal_classes_equal_however_many(temperature: float) -> None:
    """The power of each alone would vanish: 81 classes at 0.05."""
    np.testing.assert_allclose(
        sharpen(tf.fill([1, 81], 1 / 81), temperature), np.full([1, 81], 1 / 81), rtol=1e-6
    )


def test_harden_is_one_hot_of_the_best_class() -> None:
    np.testing.assert_array_equal(harden(tf.constant([[0.2, 0.5, 0.3]])), [[0, 1, 0]])


def test_sources_use_one_map_without_norm() -> None:
    decoder, sgc = _maps((1, 2, 2, 3))
    arguments = (tf.constant(decoder, tf.float32), tf.constant(sgc, tf.float32))
    for source, logits in (("decoder", decoder), ("sgc", sgc)):
        label, confidence = make_pseudo_label(*arguments, source=source, temperature=0.5)
        expected = _softmax(logits) ** 2
        expected /= expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(label, expected, atol=1e-6)
        np.testing.assert_allclose(confidence, expected.max(-1), atol=1e-6)


@pytest.mark.parametrize("source", ["decoder", "sgc"])
def test_one_map_with_norm_is_a_term_of_the_fusion(source: str) -> None:
    decoder, sgc = _maps((2, 2, 3, 4))
    arguments = (tf.constant(decoder, tf.float32), tf.constant(sgc, tf.float32))
    label, _ = make_pseudo_label(*arguments, source=source, temperature=1.0, normalize_alone=True)
    np.testing.assert_allclose(label, _fused(decoder, sgc, float(source == "decoder"), 1.0), atol=2e-6)
    # It says nothing about the fusion.
    np.testing.assert_array_equal(
        make_pseudo_label(*arguments, normalize_alone=True)[0], make_pseudo_label(*arguments)[0]
    )


def test_hard_label_has_the_confidence_before_sharpening() -> None:
    """The reference sharpens soft labels only, and reads the confidence after that."""
    decoder, sgc = (tf.constant(x, tf.float32) for x in _maps((1, 2, 2, 3)))
    soft, sharpened = make_pseudo_label(decoder, sgc)
    _, confidence = make_pseudo_label(decoder, sgc, temperature=1.0)
    hard, same = make_pseudo_label(decoder, sgc, soft=False)
    np.testing.assert_array_equal(hard, harden(soft))
    np.testing.assert_array_equal(same, confidence)
    assert np.all(sharpened > confidence)


def test_no_gradient_flows_through_a_pseudo_label() -> None:
    decoder, sgc = (tf.constant(x, tf.float32) for x in _maps((1, 2, 2, 3)))
    for source in ("fused", "decoder", "sgc"):
        with tf.GradientTape() as tape:
            tape.watch([decoder, sgc])
            label, _ = make_pseudo_label(decoder, sgc, source=source)
        assert tape.gradient(label, [decoder, sgc]) == [None, None]
