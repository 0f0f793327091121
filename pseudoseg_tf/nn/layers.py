"""Building blocks with TensorFlow 1's numbers: convolutions, batch norm, dropout, resizes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras

# tf_keras has no type hints: an initializer object or its name.
Initializer = Any


class EndPoints(NamedTuple):
    """What a backbone hands to the heads; all float, ``[B, h, w, channels]``."""

    # Stride 4, for the decoder.
    skip: tf.Tensor
    # Outputs of the stages, early to late; self-attention sees some of them.
    stages: tuple[tf.Tensor, ...]

    @property
    def last(self) -> tf.Tensor:
        """The last stage, for ASPP, classifier and Grad-CAM; non-negative, for it lies behind a ReLU."""
        return self.stages[-1]


def truncated_normal(stddev: float, seed: int) -> Initializer:
    """Truncated normal as slim's ``truncated_normal_initializer`` (cut at two standard deviations)."""
    return tf_keras.initializers.TruncatedNormal(stddev=stddev, seed=seed)


class SeedSequence:
    """Hands out one integer seed after another, so that every initializer of a model has its own."""

    def __init__(self, seed: int):
        self._next = seed * 100_003

    def __call__(self) -> int:
        self._next += 1
        return self._next % (2**31 - 1)


def resize_align_corners(x: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Bilinear resize with the corners of input and output aligned, float32 out.

    Every resize of features and logits in DeepLab is of this kind: sizes 16k+1 keep the grids on each other.
    """
    return tf.raw_ops.ResizeBilinear(images=tf.cast(x, tf.float32), size=size, align_corners=True)


def resize_mask(mask: tf.Tensor, size: tuple[int, int] | tf.Tensor, align_corners: bool = False) -> tf.Tensor:
    """Nearest resize of a mask or label map ``[B, H, W]``: source row ``floor(i * in / out)``, as in DeepLab.

    Args:
        align_corners: source row ``round(i * (in - 1) / (out - 1))`` instead.
    """
    return tf.raw_ops.ResizeNearestNeighbor(
        images=mask[..., tf.newaxis], size=size, align_corners=align_corners
    )[..., 0]


def centered(x: tf.Tensor, stride: int, kernel_size: int) -> tuple[tf.Tensor, Literal["SAME", "VALID"]]:
    """What a convolution or pooling is to read, and its padding: DeepLab's, for any stride.

    Cell ``i`` of the output looks at ``stride * i`` of the input whatever the parity of the size, which is what
    align-corners resizes assume. SAME does so where a side is a multiple of the stride plus one; else zeros are added
    here, which is a copy that waits for the backward pass.
    """
    if stride == 1 or all(side and (side - 1) % stride == 0 for side in x.shape[1:3]):
        return x, "SAME"
    return _pad_rows_and_columns(x, (kernel_size - 1) // 2), "VALID"


class Conv(tf_keras.layers.Conv2D):
    """A convolution with DeepLab's padding, which is ``centered``."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        rate: int = 1,
        use_bias: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        name: str | None = None,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            dilation_rate=rate,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            name=name,
        )

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Keras' hook, for the padding, and for dilation, which by default goes by way of space-to-batch, a copy."""
        inputs, padding = centered(inputs, self.strides[0], self.kernel_size[0])
        convolution = tf.nn.conv2d if _differentiates_dilation(inputs.dtype) else tf.nn.convolution
        return convolution(inputs, kernel, self.strides, padding, dilations=self.dilation_rate)


@functools.cache
def _differentiates_dilation(dtype: tf.DType) -> bool:
    """Whether a gradient of dilated convolutions is there: TensorFlow's own kernels for CPUs have none, oneDNN's do."""
    # The operations by name, for no tape records in here.
    with tf.init_scope():
        image, kernel = tf.ones([1, 3, 3, 1], dtype), tf.ones([3, 3, 1, 1], dtype)
        geometry = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, 2, 2, 1]}
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=image.shape, filter=kernel, out_backprop=image, **geometry
            )
            tf.raw_ops.Conv2DBackpropFilter(
                input=image, filter_sizes=kernel.shape, out_backprop=image, **geometry
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


class DepthwiseConv(tf_keras.layers.Layer):
    """A 3x3 depthwise convolution with the padding of ``Conv``; weight ``depthwise_kernel`` [3, 3, C, 1]."""

    def __init__(
        self,
        *,
        strides: int = 1,
        rate: int = 1,
        kernel_initializer: Initializer = "glorot_uniform",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self._strides = strides
        self._rate = rate
        self._initializer = tf_keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tf.TensorShape) -> None:
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel", (3, 3, input_shape[-1], 1), initializer=self._initializer
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        height, width = inputs.shape[1:3]
        if self._strides == 1 and height and width and max(height, width) <= self._rate:
            # ASPP on small crops: all taps but the middle one lie in the padding, which would be most of the work.
            return inputs * tf.cast(self.depthwise_kernel[1, 1, :, 0], inputs.dtype)
        kernel = tf.cast(self.depthwise_kernel, inputs.dtype)
        if getattr(_thread, "for_xla", False):
            return _sum_of_taps(_pad_rows_and_columns(inputs, self._rate), kernel, self._strides, self._rate)
        if self._rate > 1:
            return _dilated_depthwise(inputs, kernel, self._rate)
        inputs, padding = centered(inputs, self._strides, kernel_size=3)
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, self._strides, self._strides, 1], padding)


def _dilated_depthwise(x: tf.Tensor, kernel: tf.Tensor, rate: int) -> tf.Tensor:
    """A dilated depthwise convolution, SAME, that keeps ``x`` [B, H, W, C] for the backward pass and no more.

    It goes by way of space-to-batch, whose padded copy, in ASPP several times as large, would wait in memory: it is
    made anew.
    """

    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate])

    @tf.custom_gradient
    def keeping_inputs(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Not before the gradient is there, or the copy would be made in the forward pass.
            with tf.control_dependencies([upstream]):
                again = tf.identity(x)
            with tf.GradientTape() as tape:
                tape.watch([again, kernel])
                outputs = convolve(again, kernel)
            return tape.gradient(outputs, [again, kernel], upstream)

        return convolve(x, kernel), gradient

    return keeping_inputs(x, kernel)


# Replicas run in threads that take turns at every collective: one leaves the scope of `statistics_updates` or `for_xla`
# while another is still inside, so each thread has its own.
_thread = threading.local()


@contextlib.contextmanager
def for_xla() -> Iterator[None]:
    """Within it depthwise convolutions are sums of nine shifted products, equal but for rounding.

    XLA fuses these into one loop over memory, where it has but a slow kernel for the convolution itself; TensorFlow
    alone would make nine loops of them.
    """
    outside = getattr(_thread, "for_xla", False)
    _thread.for_xla = True
    try:
        yield
    finally:
        _thread.for_xla = outside


def _sum_of_taps(padded: tf.Tensor, kernel: tf.Tensor, stride: int, rate: int) -> tf.Tensor:
    """The depthwise convolution of a padded input [B, H, W, C] with a kernel [3, 3, C, 1]."""
    height, width = (size - 2 * rate for size in (padded.shape[1], padded.shape[2]))
    return tf.add_n(
        [
            padded[
                :,
                row * rate : row * rate + height : stride,
                column * rate : column * rate + width : stride,
            ]
            * kernel[row, column, :, 0]
            for row in range(3)
            for column in range(3)
        ]
    )


def _pad_rows_and_columns(x: tf.Tensor, pad: int) -> tf.Tensor:
    return tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x


class BatchNorm(tf_keras.layers.Layer):
    """Batch normalization over ``[B, H, W, C]`` with slim's semantics.

    Training: normalizes by the batch's (biased) variance; ``moving -= (moving - batch) * (1 - decay)``, where the
    moving variance takes the unbiased batch variance. ``synchronized``: statistics over all replicas.

    Attributes:
        frozen: training normalizes by the moving statistics, too, and leaves them alone.
    """

    frozen = False

    def __init__(
        self,
        decay: float,
        epsilon: float,
        *,
        scale: bool = True,
        synchronized: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self._decay = decay
        self._epsilon = epsilon
        self._scale = scale
        self._synchronized = synchronized

    def build(self, input_shape: tf.TensorShape) -> None:
        channels = int(input_shape[-1])
        # float32 whatever the precision policy: 16 bits cannot hold small steps of a moving average.
        parameter = {"shape": (channels,), "dtype": tf.float32, "experimental_autocast": False}
        self.gamma = self.add_weight("gamma", initializer="ones", **parameter) if self._scale else None
        self.beta = self.add_weight("beta", initializer="zeros", **parameter)
        statistic = {
            **parameter,
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        self.moving_mean = self.add_weight("moving_mean", initializer="zeros", **statistic)
        self.moving_variance = self.add_weight("moving_variance", initializer="ones", **statistic)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        training = training and not self.frozen
        gamma = tf.ones_like(self.beta) if self.gamma is None else self.gamma
        if training and self._synchronized:
            return self._synchronized_training(inputs, gamma)
        kwargs = {} if training else {"mean": self.moving_mean, "variance": self.moving_variance}
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, self.beta, epsilon=self._epsilon, is_training=training, **kwargs
        )
        if training:
            self._update(mean, variance)
        return outputs

    def _synchronized_training(self, inputs: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
        x = tf.cast(inputs, tf.float32)
        shape = tf.shape(x)
        sums = tf.concat([tf.reduce_sum(x, [0, 1, 2]), [tf.cast(tf.reduce_prod(shape[:3]), tf.float32)]], 0)
        replica = tf.distribute.get_replica_context()
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        count = sums[-1]
        mean = sums[:-1] / count
        # Two passes: sum of squares minus squared sum would lose digits in float32.
        squares = replica.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.reduce_sum(tf.square(x - mean), [0, 1, 2])
        )
        variance = squares / count
        self._update(mean, squares / tf.maximum(count - 1.0, 1.0))
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta, gamma, self._epsilon)
        return tf.cast(outputs, inputs.dtype)

    @property
    def update_count(self) -> int:
        """How often a pass moves the statistics; see ``statistics_updates``."""
        return _updates().get(id(self), 1)

    def _update(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        if self.update_count:
            # That many moves towards the same statistics, in one.
            rate = 1.0 - self._decay**self.update_count
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign_sub((moving - tf.stop_gradient(batch)) * rate)


def _updates() -> dict[int, int]:
    """How often a pass moves the statistics, by the id of a layer that does not do so once."""
    updates: dict[int, int] = getattr(_thread, "updates", {})
    return updates


@contextlib.contextmanager
def statistics_updates(module: tf.Module, count: int) -> Iterator[None]:
    """Within it, a training-mode pass of ``module`` moves its moving statistics ``count`` times, not once.

    0: the pass uses batch statistics but leaves the moving ones alone.
    """
    outside = _updates()
    inside = {id(layer): count for layer in module.submodules if isinstance(layer, BatchNorm)}
    _thread.updates = outside | inside
    try:
        yield
    finally:
        _thread.updates = outside


class Backbone(tf_keras.layers.Layer):
    """What all backbones share: their blocks run through ``run``.

    Attributes:
        rematerialize: training passes keep only what goes into each block, and compute the rest once more in the
            backward pass: less memory for about a third more work.
    """

    rematerialize = False

    def run(self, block: Callable[..., Any], x: tf.Tensor, training: bool) -> Any:
        """``block(x, training=training)``; the block must not draw random numbers."""
        if not (training and self.rematerialize):
            return block(x, training=training)
        again = False

        def call(x: tf.Tensor) -> Any:
            nonlocal again
            scope = statistics_updates(self, 0) if again else contextlib.nullcontext()
            again = True
            with scope:
                return block(x, training=True)

        return tf.recompute_grad(call)(x)


class Dropout(tf_keras.layers.Layer):
    """Dropout whose random state is a variable of the model, so that a restored run draws the same masks."""

    def __init__(self, keep_prob: float, seed: int, name: str | None = None):
        super().__init__(name=name)
        self._keep_prob = keep_prob
        if keep_prob < 1.0:
            self.generator = tf.random.Generator.from_seed(seed, alg="philox")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self._keep_prob >= 1.0:
            return inputs
        kept = self.generator.uniform(tf.shape(inputs)) < self._keep_prob
        return tf.where(kept, inputs / self._keep_prob, tf.zeros_like(inputs))


BatchNormFactory = Callable[[str], BatchNorm]


class ConvBatchNorm(tf_keras.layers.Layer):
    """Convolution without bias, batch norm, optional activation."""

    def __init__(
        self,
        conv: Conv | DepthwiseConv,
        batch_norm: BatchNorm,
        activation: Callable[[tf.Tensor], tf.Tensor] | None = tf.nn.relu,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.conv = conv
        self.batch_norm = batch_norm
        self._activation = activation

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        outputs = self.batch_norm(self.conv(inputs), training=training)
        return outputs if self._activation is None else self._activation(outputs)


def conv_batch_norm(
    filters: int,
    kernel_size: int,
    kernel_initializer: Initializer,
    batch_norm: BatchNormFactory,
    name: str,
    *,
    strides: int = 1,
    rate: int = 1,
    relu: bool = True,
) -> ConvBatchNorm:
    """A convolution, batch norm and, if asked for, ReLU; layers ``name``, ``{name}_conv`` and ``{name}_bn``."""
    conv = Conv(
        filters,
        kernel_size,
        strides=strides,
        rate=rate,
        kernel_initializer=kernel_initializer,
        name=f"{name}_conv",
    )
    return ConvBatchNorm(conv, batch_norm(f"{name}_bn"), tf.nn.relu if relu else None, name=name)


class SeparableConv(tf_keras.layers.Layer):
    """DeepLab's separable convolution: depthwise, batch norm, ReLU, pointwise, batch norm, ReLU.

    Args:
        relu: false leaves out both ReLUs.
        stddevs: standard deviations of the initial depthwise and pointwise kernels.
    """

    def __init__(
        self,
        filters: int,
        batch_norm: BatchNormFactory,
        seeds: SeedSequence,
        *,
        strides: int = 1,
        rate: int = 1,
        relu: bool = True,
        stddevs: tuple[float, float] = (0.33, 0.06),
        name: str | None = None,
    ):
        super().__init__(name=name)
        activation = tf.nn.relu if relu else None
        self.depthwise = ConvBatchNorm(
            DepthwiseConv(
                strides=strides,
                rate=rate,
                kernel_initializer=truncated_normal(stddevs[0], seeds()),
                name="depthwise",
            ),
            batch_norm("depthwise_bn"),
            activation,
            name="depthwise_unit",
        )
        self.pointwise = ConvBatchNorm(
            Conv(filters, 1, kernel_initializer=truncated_normal(stddevs[1], seeds()), name="pointwise"),
            batch_norm("pointwise_bn"),
            activation,
            name="pointwise_unit",
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.pointwise(self.depthwise(inputs, training=training), training=training)

    def units(self, scope: str) -> Iterator[tuple[str, ConvBatchNorm]]:
        """Both halves with their scopes in a TensorFlow 1 checkpoint."""
        yield f"{scope}_depthwise", self.depthwise
        yield f"{scope}_pointwise", self.pointwise
