"""TensorFlow 1's momentum optimizer and DeepLab's learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras


class PolynomialDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """base * (1 - step / total)^power, 0 from ``total`` on."""

    def __init__(self, base: float, total: int, power: float = 0.9):
        super().__init__()
        self.base, self.total, self.power = base, total, power

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        left = 1.0 - tf.cast(step, tf.float32) / float(self.total)
        return self.base * tf.pow(tf.maximum(left, 0.0), self.power)

    def get_config(self) -> dict[str, float]:
        return {"base": self.base, "total": self.total, "power": self.power}


class Momentum(tf_keras.optimizers.Optimizer):
    """Momentum as TF1's ``MomentumOptimizer``: m = mu * m + g; w -= lr * m.

    Keras folds the learning rate into m, which differs as soon as the rate changes.
    """

    def __init__(
        self, learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule, momentum: float = 0.9
    ):
        super().__init__(name="momentum", jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._momentum = momentum

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the momenta of all variables; ``apply_gradients`` may then be given some of them."""
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.momentums = [self.add_variable_from_reference(v, "momentum") for v in var_list]
            self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        momentum = self.momentums[self._index_dict[self._var_key(variable)]]
        momentum.assign(momentum * self._momentum + gradient)
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * momentum)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "momentum": self._momentum}


def gradient_multipliers(
    variables: Sequence[tf.Variable], backbone: Sequence[tf.Variable], backbone_multiplier: float
) -> list[float]:
    """Factors on the gradients: biases learn twice as fast (DeepLab), the backbone by its own factor."""
    in_backbone = {v.ref() for v in backbone}
    return [
        (2.0 if v.name.split("/")[-1].startswith("bias") else 1.0)
        * (backbone_multiplier if v.ref() in in_backbone else 1.0)
        for v in variables
    ]


def ramp_up(step: tf.Tensor, ramp_steps: int) -> tf.Tensor:
    """Grows from nearly 0 to 1 over the first ``ramp_steps`` steps as exp(-5 (1 - t)^2); 1 throughout for 0.

    The ramp of Laine and Aila (Temporal Ensembling, ICLR 2017): a network that knows nothing yet must not be
    its own teacher.
    """
    if ramp_steps == 0:
        return tf.constant(1.0)
    left = 1.0 - tf.minimum(1.0, tf.cast(step, tf.float32) / float(ramp_steps))
    return tf.exp(-5.0 * tf.square(left))
