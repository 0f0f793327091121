"""Noticing, on the step where it happens, that a loss or a gradient is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pseudoseg_tf.pseudo_label import AcrossReplicas


class NonFiniteStep(Exception):
    """A step whose loss or gradient is not finite. The variables have no use from there on.

    Attributes:
        step: the number of the step, counted from 0.
        losses: its loss terms by name, over all replicas.
    """

    def __init__(self, step: int, losses: Mapping[str, float]):
        super().__init__(step, losses)
        self.step = step
        self.losses = dict(losses)


class FiniteWatch(tf.Module):
    """Remembers the first step whose loss terms or gradients are not finite.

    It looks on the device and is asked after many steps, so that no step waits for the host. Create it in the scope of
    the strategy; all replicas see and remember the same.
    """

    def __init__(self, names: Sequence[str]):
        """Watches the loss terms of these names."""
        super().__init__(name="finite_watch")
        self._names = tuple(names)
        self._step = _replica_variable(-1, tf.int64)
        self._losses = _replica_variable([0.0] * len(self._names), tf.float32)

    def see_losses(
        self,
        step: tf.Tensor,
        losses: Mapping[str, tf.Tensor],
        across_replicas: AcrossReplicas,
        part: int | tf.Tensor = 0,
    ) -> None:
        """Looks at the shares of one replica in the loss terms of ``step`` (int64, from 0), or of a ``part`` of it."""
        values = across_replicas(tf.stack([losses[name] for name in self._names]))
        # Of the latest step, or of the one remembered.
        counted = tf.logical_or(self._step < 0, self._step == tf.cast(step, tf.int64))
        before = tf.where(tf.equal(part, 0), tf.zeros_like(values), self._losses)
        self._losses.assign(tf.where(counted, before + values, self._losses))
        self._remember(step, tf.reduce_all(tf.math.is_finite(values)))

    def see_gradients(
        self,
        step: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        across_replicas: AcrossReplicas,
        expected: bool | tf.Tensor = False,
    ) -> None:
        """Looks at the norm of one replica's gradients of ``step``, after its losses.

        Args:
            expected: one that is not finite is no mistake: the scale of float16 losses is yet to be found.
        """
        finite = tf.logical_or(tf.math.is_finite(tf.linalg.global_norm(gradients)), expected)
        others = across_replicas(tf.where(finite, 0.0, 1.0))
        self._remember(step, others == 0.0)

    def check(self) -> None:
        """Raises NonFiniteStep if there was one since ``reset``. Waits for the device."""
        step = int(self._step.numpy())
        if step >= 0:
            values = np.asarray(self._losses.numpy(), np.float64)
            raise NonFiniteStep(step, dict(zip(self._names, values.tolist(), strict=True)))

    def reset(self) -> None:
        """Forgets what it saw."""
        self._step.assign(-1)

    def _remember(self, step: tf.Tensor, finite: tf.Tensor) -> None:
        is_first = tf.logical_and(self._step < 0, tf.logical_not(finite))
        self._step.assign(tf.where(is_first, tf.cast(step, tf.int64), self._step))


def _replica_variable(value: object, dtype: tf.DType) -> tf.Variable:
    """A variable that each replica has for itself, with the same value in all."""
    return tf.Variable(
        value,
        trainable=False,
        dtype=dtype,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
