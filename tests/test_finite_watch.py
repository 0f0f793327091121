"""A loss or gradient that is not finite is remembered with its step."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf

from pseudoseg_tf.finite_watch import FiniteWatch, NonFiniteStep
from pseudoseg_tf.pseudo_label import one_replica


def see(watch: FiniteWatch, step: int, total: float, decay: float, gradient: float) -> None:
    watch.see_losses(
        tf.convert_to_tensor(step, tf.int64),
        {"decay": tf.convert_to_tensor(decay), "total": tf.convert_to_tensor(total)},
        one_replica,
    )
    gradients = [tf.ones([2]), tf.constant([0.0, gradient])]
    watch.see_gradients(tf.convert_to_tensor(step, tf.int64), gradients, one_replica)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_step_is_remembered_with_its_losses(value: float) -> None:
    watch = FiniteWatch(["total", "decay"])
    step = tf.function(lambda number, total: see(watch, number, total, 0.5, 1.0))
    for number, total in ((3, 1.0), (4, 2.0), (5, value), (6, 3.0), (7, math.nan)):
        step(tf.constant(number, tf.int64), tf.constant(total))
        if number < 5:
            watch.check()
    with pytest.raises(NonFiniteStep) as error:
        watch.check()
    assert error.value.step == 5
    assert error.value.losses == pytest.approx({"total": value, "decay": 0.5}, nan_ok=True)
    watch.reset()
    watch.check()


@pytest.mark.parametrize("gradient", [math.nan, math.inf])
def test_a_gradient_is_enough(gradient: float) -> None:
    watch = FiniteWatch(["total", "decay"])
    see(watch, 0, 1.0, 0.5, 1.0)
    watch.check()
    see(watch, 1, 2.0, 0.25, gradient)
    see(watch, 2, math.nan, math.nan, math.nan)
    with pytest.raises(NonFiniteStep) as error:
        watch.check()
    assert (error.value.step, error.value.losses) == (1, {"total": 2.0, "decay": 0.25})


def test_the_losses_of_a_step_are_those_of_its_parts() -> None:
    """The step before, and parts after the one that is not finite, included or not."""
    watch = FiniteWatch(["total"])
    see_part = tf.function(
        lambda step, part, total: watch.see_losses(step, {"total": total}, one_replica, part)
    )
    for step, parts in ((4, (1.0, 2.0)), (5, (8.0, 16.0)), (6, (1.0, 2.0))):
        for part, total in enumerate(parts):
            see_part(tf.constant(step, tf.int64), tf.constant(part), tf.constant(total))
        gradient = math.nan if step == 5 else 1.0
        watch.see_gradients(tf.constant(step, tf.int64), [tf.constant(gradient)], one_replica)
    with pytest.raises(NonFiniteStep) as error:
        watch.check()
    assert (error.value.step, error.value.losses) == (5, {"total": 24.0})
    watch.reset()
    for part, total in enumerate((3.0, math.inf, 4.0)):
        see_part(tf.constant(7, tf.int64), tf.constant(part), tf.constant(total))
    with pytest.raises(NonFiniteStep) as error:
        watch.check()
    assert (error.value.step, error.value.losses) == (7, {"total": math.inf})


def test_an_expected_overflow_is_no_mistake() -> None:
    watch = FiniteWatch(["total"])
    for step, expected in ((0, True), (1, tf.constant(True)), (2, tf.constant(False))):
        watch.check()
        watch.see_gradients(tf.constant(step, tf.int64), [tf.constant(math.inf)], one_replica, expected)
    with pytest.raises(NonFiniteStep):
        watch.check()


def test_all_replicas_remember_what_one_saw(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        watch = FiniteWatch(["total"])

    def across(x: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x)

    @tf.function
    def step(number: tf.Tensor, gradient: tf.Tensor) -> None:
        def on_replica() -> None:
            second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
            # A share of the loss each.
            watch.see_losses(number, {"total": tf.where(second, 2.0, 1.0)}, across)
            watch.see_gradients(number, [tf.where(second, gradient, 1.0)], across)

        two_replicas.run(on_replica)

    step(tf.constant(8, tf.int64), tf.constant(1.0))
    step(tf.constant(9, tf.int64), tf.constant(math.nan))
    with two_replicas.scope():
        with pytest.raises(NonFiniteStep) as error:
            watch.check()
        assert (error.value.step, error.value.losses) == (9, {"total": 3.0})
        watch.reset()
        watch.check()
