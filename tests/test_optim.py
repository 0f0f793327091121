"""Momentum, Adam and schedules in TensorFlow 1's form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoseg_tf.optim import (
    Adam,
    Momentum,
    PolynomialDecay,
    SlowStart,
    StepDecay,
    gradient_multipliers,
    ramp_up,
)


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


def test_a_step_of_momentum_changes_each_weight_by_one_operation() -> None:
    variables = [tf.Variable([1.0, -2.0]), tf.Variable(3.0)]
    optimizer = Momentum(0.1)
    optimizer.build(variables)

    @tf.function
    def step() -> None:
        optimizer.apply_gradients([(tf.ones_like(variable), variable) for variable in variables])

    kinds = [operation.type for operation in step.get_concrete_function().graph.get_operations()]
    assert kinds.count("ResourceApplyMomentum") == 2
    # Keras' own weight decay would be another pass over the memory, and copy weights that are in use.
    assert "AssignSubVariableOp" not in kinds


def test_some_variables_may_lack_a_gradient() -> None:
    variables = [tf.Variable(1.0), tf.Variable(2.0), tf.Variable(3.0)]
    optimizer = Momentum(0.1, 0.9)
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.constant(1.0), variables[2])])
    optimizer.apply_gradients([(tf.constant(1.0), variables[0]), (tf.constant(0.0), variables[2])])
    # The third keeps its own momentum: 0.1 * 1, then 0.1 * 0.9.
    np.testing.assert_allclose([v.numpy() for v in variables], [0.9, 2.0, 2.81], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1, 4)])
@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
@pytest.mark.parametrize("graph", [False, True])
def test_adam_adds_epsilon_to_the_uncorrected_root(
    shape: tuple[int, ...], epsilon: float, graph: bool
) -> None:
    gradients = np.random.default_rng(0).normal(size=(6, *shape))
    variable, optimizer = tf.Variable(tf.zeros(shape)), Adam(0.01, epsilon=epsilon)
    optimizer.build([variable])

    def update(gradient: tf.Tensor) -> None:
        optimizer.apply_gradients([(gradient, variable)])

    function = tf.function(update) if graph else update
    weight, first, second = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for step, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight = weight - rate * first / (np.sqrt(second) + epsilon)
        function(tf.constant(gradient, tf.float32))
        # A ten-thousandth of the largest possible update.
        np.testing.assert_allclose(variable, weight, atol=1e-6)
    assert int(optimizer.iterations) == len(gradients)


def test_first_adam_step_by_hand() -> None:
    """m = 0.2, v = 0.004, rate = 1 * sqrt(0.001) / 0.1: w = -rate * 0.2 / (sqrt(0.004) + 1)."""
    variable, optimizer = tf.Variable(0.0), Adam(1.0, epsilon=1.0)
    optimizer.apply_gradients([(tf.constant(2.0), variable)])
    assert float(variable) == pytest.approx(-np.sqrt(0.1) * 0.2 / (np.sqrt(0.004) + 1), rel=1e-4)


@settings(max_examples=25)
@given(
    gradients=st.lists(
        st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=2),
        min_size=1,
        max_size=8,
    ),
    epsilon=st.sampled_from([1e-8, 1e-4, 1.0]),
)
def test_adam_equals_the_tf1_optimizer(gradients: list[list[float]], epsilon: float) -> None:
    ours, theirs = tf.Variable([1.0, -2.0]), tf.Variable([1.0, -2.0])
    optimizer, reference = Adam(0.1, epsilon=epsilon), tf.compat.v1.train.AdamOptimizer(0.1, epsilon=epsilon)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), ours)])
        reference.apply_gradients([(tf.constant(gradient), theirs)])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_adam_leaves_variables_without_a_gradient() -> None:
    variables = [tf.Variable(1.0), tf.Variable(2.0)]
    optimizer = Adam(0.1, epsilon=1e-12)
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.constant(5.0), variables[0])])
    np.testing.assert_allclose([v.numpy() for v in variables], [0.9, 2.0], rtol=1e-5)
    optimizer.apply_gradients([(tf.constant(5.0), variables[1])])
    # The second's m and v begin in step 2: 0.1 * sqrt(1 - 0.999^2) / (1 - 0.9^2) * 0.1 / sqrt(0.001).
    update = 0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * 0.1 / np.sqrt(0.001)
    np.testing.assert_allclose([v.numpy() for v in variables], [0.9, 2.0 - update], rtol=1e-4)


def test_adam_of_two_replicas_sums_their_gradients(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        mirrored, optimizer = tf.Variable([1.0, 2.0]), Adam(0.1, epsilon=0.1)
        optimizer.build([mirrored])

    @tf.function
    def step() -> None:
        def update() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.constant([1.0, -3.0]) * tf.cast(replica + 1, tf.float32)
            optimizer.apply_gradients([(gradient, mirrored)])

        two_replicas.run(update)

    alone, reference = tf.Variable([1.0, 2.0]), Adam(0.1, epsilon=0.1)
    for _ in range(3):
        step()
        reference.apply_gradients([(tf.constant([3.0, -9.0]), alone)])
        for copy in two_replicas.experimental_local_results(mirrored):
            np.testing.assert_allclose(copy, alone, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adam(0.1),
        lambda: Momentum(SlowStart(StepDecay(0.1, 0.5, 2), 3, 0.01)),
        lambda: Momentum(PolynomialDecay(0.1, 8, end=0.01)),
    ],
)
def test_restored_optimizer_goes_on_bit_for_bit(make: Callable[[], Adam | Momentum], tmp_path: Path) -> None:
    gradients = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)

    def begin() -> tuple[tf.Variable, Adam | Momentum, tf.train.Checkpoint]:
        variable, optimizer = tf.Variable(tf.ones(3)), make()
        optimizer.build([variable])
        return variable, optimizer, tf.train.Checkpoint(variable=variable, optimizer=optimizer)

    variable, optimizer, saved = begin()
    path = ""
    for step, gradient in enumerate(gradients):
        if step == 4:
            path = saved.save(str(tmp_path / "ckpt"))
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    again, restored, checkpoint = begin()
    checkpoint.restore(path).assert_consumed()
    assert int(restored.iterations) == 4
    for gradient in gradients[4:]:
        restored.apply_gradients([(tf.constant(gradient), again)])
    np.testing.assert_array_equal(again, variable)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.007), (15000, 0.007 * 0.5**0.9), (30000, 0.0), (40000, 0.0)]
)
def test_schedule(step: int, rate: float) -> None:
    assert float(PolynomialDecay(0.007, 30000)(step)) == pytest.approx(rate, abs=1e-9)


def test_polynomial_decay_to_an_end_rate() -> None:
    schedule = PolynomialDecay(0.5, 4, 2.0, end=0.1)
    rates = [float(schedule(step)) for step in (0, 2, 3, 4, 9)]
    assert rates == pytest.approx([0.5, 0.4 / 4 + 0.1, 0.4 / 16 + 0.1, 0.1, 0.1], rel=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_slow_start_then_stairs(graph: bool) -> None:
    schedule = SlowStart(StepDecay(0.8, 0.5, 3), 2, 0.01)
    function = tf.function(schedule) if graph else schedule
    rates = [float(function(tf.constant(step, tf.int64))) for step in range(10)]
    expected = [0.01, 0.01, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    np.testing.assert_array_equal(np.float32(rates), np.float32(expected))


@settings(max_examples=50)
@given(
    step=st.integers(0, 60_000),
    slow=st.integers(0, 500),
    every=st.integers(1, 40_000),
    factor=st.floats(0.1, 1.0),
    power=st.just(0.0) | st.floats(0.1, 2.0),
    end=st.floats(0.0, 0.007),
)
def test_schedules_are_their_formulas(
    step: int, slow: int, every: int, factor: float, power: float, end: float
) -> None:
    counted = max(step - slow, 0)
    poly = (0.007 - end) * max(1 - counted / every, 0.0) ** power + end
    for schedule, expected in (
        (PolynomialDecay(0.007, every, power, end), poly),
        (StepDecay(0.007, factor, every), 0.007 * factor ** (counted // every)),
    ):
        rate = float(SlowStart(schedule, slow, 1e-4)(step))
        # float32 alone: 1 - step / total is off by 6e-8.
        assert rate == pytest.approx(1e-4 if step < slow else expected, rel=1e-4, abs=1e-5)


def test_biases_learn_twice_as_fast_and_the_backbone_by_its_factor() -> None:
    kernel = tf.Variable(1.0, name="head/conv/kernel")
    bias = tf.Variable(1.0, name="head/conv/bias")
    backbone = tf.Variable(1.0, name="backbone/conv/kernel")
    assert gradient_multipliers([kernel, bias, backbone], [backbone], 0.1) == [1.0, 2.0, 0.1]


def test_last_layers_have_their_factor_and_biases_twice_that() -> None:
    kernel, bias = tf.Variable(1.0, name="logits/kernel"), tf.Variable(1.0, name="logits/bias")
    other = tf.Variable(1.0, name="logits_of_another/bias")
    assert gradient_multipliers([kernel, bias, other], [], 1.0, [kernel, bias], 10.0) == [10.0, 20.0, 2.0]


def test_ramp() -> None:
    ramp = [float(ramp_up(tf.constant(step), 4)) for step in (0, 2, 4, 9)]
    assert ramp == pytest.approx([np.exp(-5), np.exp(-1.25), 1, 1])
    assert float(ramp_up(tf.constant(0), 0)) == 1
