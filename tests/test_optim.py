"""Momentum and schedule in TensorFlow 1's form."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.optim import Momentum, PolynomialDecay, gradient_multipliers, ramp_up


def test_momentum_equals_tf1_while_the_rate_changes() -> None:
    gradients = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    schedule = PolynomialDecay(0.5, 5, 0.9)
    weight, momentum = np.ones(3, np.float64), np.zeros(3)
    variable, optimizer = tf.Variable(tf.ones(3)), Momentum(schedule, 0.9)
    optimizer.build([variable])
    for step, gradient in enumerate(gradients):
        momentum = 0.9 * momentum + gradient
        weight = weight - 0.5 * max(1 - step / 5, 0) ** 0.9 * momentum
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        np.testing.assert_allclose(variable, weight, atol=1e-6)
    assert int(optimizer.iterations) == len(gradients)


def test_momentum_equals_the_tf1_optimizer() -> None:
    ours, theirs = tf.Variable([1.0, -2.0]), tf.Variable([1.0, -2.0])
    optimizer, reference = Momentum(0.1, 0.9), tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
    for gradient in ([0.5, 1.0], [-1.0, 0.25], [2.0, 2.0]):
        optimizer.apply_gradients([(tf.constant(gradient), ours)])
        reference.apply_gradients([(tf.constant(gradient), theirs)])
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_some_variables_may_lack_a_gradient() -> None:
    variables = [tf.Variable(1.0), tf.Variable(2.0), tf.Variable(3.0)]
    optimizer = Momentum(0.1, 0.9)
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.constant(1.0), variables[2])])
    optimizer.apply_gradients([(tf.constant(1.0), variables[0]), (tf.constant(0.0), variables[2])])
    # The third keeps its own momentum: 0.1 * 1, then 0.1 * 0.9.
    np.testing.assert_allclose([v.numpy() for v in variables], [0.9, 2.0, 2.81], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.007), (15000, 0.007 * 0.5**0.9), (30000, 0.0), (40000, 0.0)]
)
def test_schedule(step: int, rate: float) -> None:
    assert float(PolynomialDecay(0.007, 30000)(step)) == pytest.approx(rate, abs=1e-9)


def test_biases_learn_twice_as_fast_and_the_backbone_by_its_factor() -> None:
    kernel = tf.Variable(1.0, name="head/conv/kernel")
    bias = tf.Variable(1.0, name="head/conv/bias")
    backbone = tf.Variable(1.0, name="backbone/conv/kernel")
    assert gradient_multipliers([kernel, bias, backbone], [backbone], 0.1) == [1.0, 2.0, 0.1]


def test_ramp() -> None:
    ramp = [float(ramp_up(tf.constant(step), 4)) for step in (0, 2, 4, 9)]
    assert ramp == pytest.approx([np.exp(-5), np.exp(-1.25), 1, 1])
    assert float(ramp_up(tf.constant(0), 0)) == 1
