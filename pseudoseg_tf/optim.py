"""TensorFlow 1's momentum and Adam optimizers, and DeepLab's learning-rate schedules."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras


class PolynomialDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """(base - end) * (1 - step / total)^power + end; ``end`` from step ``total`` on."""

    def __init__(self, base: float, total: int, power: float = 0.9, end: float = 0.0):
        super().__init__()
        self.base, self.total, self.power, self.end = base, total, power, end

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        left = 1.0 - tf.cast(step, tf.float32) / float(self.total)
        return (self.base - self.end) * tf.pow(tf.maximum(left, 0.0), self.power) + self.end

    def get_config(self) -> dict[str, float]:
        return {"base": self.base, "total": self.total, "power": self.power, "end": self.end}


class StepDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """base * factor^floor(step / every): a staircase."""

    def __init__(self, base: float, factor: float, every: int):
        super().__init__()
        self.base, self.factor, self.every = base, factor, every

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        stairs = tf.cast(step, tf.int64) // self.every
        return self.base * tf.pow(tf.constant(self.factor, tf.float32), tf.cast(stairs, tf.float32))

    def get_config(self) -> dict[str, float]:
        return {"base": self.base, "factor": self.factor, "every": self.every}


class SlowStart(tf_keras.optimizers.schedules.LearningRateSchedule):
    """The constant ``rate`` before step ``steps``; from there ``schedule``, which counts from 0."""

    def __init__(self, schedule: tf_keras.optimizers.schedules.LearningRateSchedule, steps: int, rate: float):
        super().__init__()
        self.schedule, self.steps, self.rate = schedule, steps, rate

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.int64)
        rate = self.schedule(tf.maximum(step - self.steps, 0))
        return tf.where(step < self.steps, self.rate, rate)

    def get_config(self) -> dict[str, object]:
        return {"schedule": self.schedule, "steps": self.steps, "rate": self.rate}


class Momentum(tf_keras.optimizers.Optimizer):
    """Momentum as TF1's ``MomentumOptimizer``: m = mu * m + g; w -= lr * m.

    Keras folds the learning rate into m, which differs as soon as the rate changes.
    """

    def __init__(
        self, learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule, momentum: float = 0.9
    ):
        # None: the default, 0, subtracts 0 times each weight in every step.
        super().__init__(name="momentum", weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._momentum = momentum

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the momenta of all variables; ``apply_gradients`` may then be given some of them."""
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.momentums = [self.add_variable_from_reference(v, "momentum") for v in var_list]
            self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        # TF1's own kernel: one pass over the memory.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.momentums[self._index_dict[self._var_key(variable)]].handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self._momentum, variable.dtype),
        )

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "momentum": self._momentum}


class Adam(tf_keras.optimizers.Optimizer):
    """Adam as TF1's ``AdamOptimizer``, in step t = 1, 2, ...

    m += (1 - b1) (g - m);  v += (1 - b2) (g^2 - v);
    w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon).

    Epsilon is added to the root of the uncorrected v ("epsilon hat" of Kingma and Ba), which is at first
    much smaller than the corrected one. A variable without a gradient keeps its m and v; t counts all steps.
    """

    def __init__(
        self,
        learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        # None: the default, 0, subtracts 0 times each weight in every step.
        super().__init__(name="adam", weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon

    @property
    def betas(self) -> tuple[float, float]:
        """b1 and b2."""
        return self._beta_1, self._beta_2

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes m and v of all variables; ``apply_gradients`` may then be given some of them."""
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.first_moments = [self.add_variable_from_reference(v, "first_moment") for v in var_list]
            self.second_moments = [self.add_variable_from_reference(v, "second_moment") for v in var_list]
            self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        index = self._index_dict[self._var_key(variable)]
        first, second = self.first_moments[index], self.second_moments[index]
        dtype = variable.dtype
        # Rounded to the variable's type before anything is computed of them: 1 - 0.999 in float32 is off by
        # 1e-5, which cancels only if the moments and their correction are off by the same.
        beta_1, beta_2 = tf.constant(self._beta_1, dtype), tf.constant(self._beta_2, dtype)
        step = tf.cast(self.iterations + 1, dtype)
        correction = tf.sqrt(1.0 - tf.pow(beta_2, step)) / (1.0 - tf.pow(beta_1, step))
        first.assign_add((gradient - first) * (1.0 - beta_1))
        second.assign_add((tf.square(gradient) - second) * (1.0 - beta_2))
        rate = tf.cast(self.learning_rate, dtype) * correction
        variable.assign_sub(rate * first / (tf.sqrt(second) + self._epsilon))

    def get_config(self) -> dict[str, object]:
        return {
            **super().get_config(),
            "beta_1": self._beta_1,
            "beta_2": self._beta_2,
            "epsilon": self._epsilon,
        }


def gradient_multipliers(
    variables: Sequence[tf.Variable],
    backbone: Sequence[tf.Variable],
    backbone_multiplier: float,
    last_layers: Sequence[tf.Variable] = (),
    last_layer_multiplier: float = 1.0,
) -> list[float]:
    """Factors on the gradients, weight decay included; where several hold, their product.

    Biases learn twice as fast (DeepLab), the backbone and the last layers by their own factors.

    Args:
        variables: whose factors are returned, in this order.
        last_layers: in the reference every variable with "logits" in its name. Of its networks these are
            ``logits/semantic/weights`` and ``biases`` (the decoder's last convolution) and
            ``NET/logits/weights`` and ``biases`` (the image-level classifier); not the self-attention, whose
            last convolution is ``pixel_normalization``. Here: kernel and bias of the model's
            ``head.decoder.logits`` and ``classifier``.
    """
    in_backbone = {v.ref() for v in backbone}
    in_last_layers = {v.ref() for v in last_layers}
    return [
        (2.0 if v.name.split("/")[-1].startswith("bias") else 1.0)
        * (backbone_multiplier if v.ref() in in_backbone else 1.0)
        * (last_layer_multiplier if v.ref() in in_last_layers else 1.0)
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
