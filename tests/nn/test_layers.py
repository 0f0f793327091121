"""Convolution padding, batch norm with slim's numbers, dropout, resizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.nn import layers
from pseudoseg_tf.nn.layers import (
    BatchNorm,
    Conv,
    DepthwiseConv,
    Dropout,
    for_xla,
    resize_align_corners,
    resize_mask,
    statistics_updates,
)


@pytest.mark.parametrize("size", [(8, 9), (9, 9), (17, 12)])
def test_strided_convolution_is_the_subsampled_one(size: tuple[int, int]) -> None:
    x = tf.random.stateless_normal([2, *size, 3], [1, 2])
    for layer in (
        lambda s: Conv(4, 3, strides=s),
        lambda s: Conv(4, 7, strides=s),
        lambda s: Conv(4, 1, strides=s),
        lambda s: DepthwiseConv(strides=s),
    ):
        dense, strided = layer(1), layer(2)
        expected = dense(x)[:, ::2, ::2]
        strided.build(x.shape)
        strided.set_weights(dense.get_weights())
        np.testing.assert_allclose(strided(x), expected, atol=1e-5)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("graph", [False, True])
def test_dilated_convolution_equals_that_by_space_to_batch(
    native: bool, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(layers, "_differentiates_dilation", lambda dtype: False)
    x = tf.random.stateless_normal([2, 9, 7, 3], [3, 4])
    layer = Conv(5, 3, rate=2)
    layer.build(x.shape)

    def run(convolve: Callable[[tf.Tensor], tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolve(x)
            loss = tf.reduce_sum(y**3)
        return [y, *tape.gradient(loss, [x, layer.kernel])]

    found = tf.function(run)(layer) if graph else run(layer)
    expected = run(lambda x: tf.nn.convolution(x, layer.kernel, padding="SAME", dilations=2))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dilated_convolution_has_a_gradient_in_any_precision(dtype: str) -> None:
    x = tf.cast(tf.random.stateless_normal([2, 9, 7, 3], [3, 4]), dtype)
    layer = Conv(5, 3, rate=2)
    layer.build(x.shape)

    @tf.function
    def gradients() -> list[tf.Tensor]:
        kernel = tf.cast(layer.kernel, dtype)
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = layer.convolution_op(x, kernel)
        return tape.gradient(y, [x, kernel])

    assert [each.dtype for each in gradients()] == [dtype, dtype]


@pytest.mark.parametrize("layer", [lambda s: Conv(4, 3, strides=s), lambda s: DepthwiseConv(strides=s)])
def test_only_strides_on_even_sides_copy_what_a_convolution_reads(
    layer: Callable[[int], tf.Module],
) -> None:
    def padded(strides: int, *size: int | None) -> bool:
        graph = tf.function(layer(strides)).get_concrete_function(tf.TensorSpec([1, *size, 2])).graph
        return any(operation.type == "Pad" for operation in graph.get_operations())

    assert not padded(1, 8, 8) and not padded(1, None, None) and not padded(2, 9, 17)
    assert padded(2, 8, 9) and padded(2, 9, 8) and padded(2, None, 9)


@pytest.mark.parametrize("rate", [1, 2, 5, 6, 7, 18])
def test_depthwise_convolution_is_channelwise(rate: int) -> None:
    x = tf.random.stateless_normal([1, 7, 6, 2], [3, 4])
    layer = DepthwiseConv(rate=rate)
    y = layer(x).numpy()
    kernel = layer.get_weights()[0]
    padded = np.pad(x.numpy(), [(0, 0), (rate, rate), (rate, rate), (0, 0)])
    expected = sum(
        padded[:, i * rate : i * rate + 7, j * rate : j * rate + 6] * kernel[i, j, :, 0]
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "rate", "size"), [(1, 1, (8, 9)), (1, 3, (7, 9)), (2, 1, (8, 9)), (2, 1, (9, 7))]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_depthwise_convolution_for_xla_is_the_same(
    strides: int, rate: int, size: tuple[int, int], compiled: bool
) -> None:
    x = tf.random.stateless_normal([2, *size, 3], [3, 4])
    layer = DepthwiseConv(strides=strides, rate=rate)
    layer.build(x.shape)

    def call() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**3)
        return [y, *tape.gradient(loss, [x, layer.depthwise_kernel])]

    expected = call()
    for found, value in zip(tf.function(for_xla()(call), jit_compile=compiled)(), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
    graph = tf.function(for_xla()(call)).get_concrete_function().graph
    assert not any("DepthwiseConv" in operation.type for operation in graph.get_operations())
    # Outside of its scope nothing has changed.
    graph = tf.function(call).get_concrete_function().graph
    assert any("DepthwiseConv" in operation.type for operation in graph.get_operations())


def test_dilated_depthwise_convolution_makes_its_copy_anew_in_the_backward_pass() -> None:
    layer = DepthwiseConv(rate=2)

    @tf.function
    def gradients(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 3)
        return tape.gradient(loss, [layer.depthwise_kernel])

    graph = gradients.get_concrete_function(tf.TensorSpec([1, 9, 7, 2])).graph
    [of_kernel] = [each for each in graph.get_operations() if each.type.endswith("BackpropFilter")]
    copy = of_kernel.inputs[0].op
    assert copy.type == "SpaceToBatchND"
    # What it copies waits for the gradient from above.
    assert copy.inputs[0].op.control_inputs


@pytest.mark.parametrize("rate", [6, 7, 18])
def test_depthwise_convolution_on_a_grid_below_its_rate_equals_that_on_a_larger_one(rate: int) -> None:
    x = tf.random.stateless_normal([2, 7, 6, 3], [3, 4])
    layer = DepthwiseConv(rate=rate)
    # Outputs whose taps see nothing but zeros of the padding: those of a larger picture's corner.
    larger = tf.pad(x, [[0, 0], [0, 20], [0, 20], [0, 0]])
    with tf.GradientTape(persistent=True) as tape:
        small = layer(x)
        cut = layer(larger)[:, : small.shape[1], : small.shape[2]]
        losses = [tf.reduce_sum(y**3) for y in (small, cut)]
    np.testing.assert_allclose(small, cut, rtol=1e-6, atol=1e-6)
    for found, expected in zip(
        *(tape.gradient(loss, layer.depthwise_kernel) for loss in losses), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_batch_norm_training_step(synchronized: bool, graph: bool) -> None:
    x = np.random.default_rng(0).normal(2, 3, (2, 3, 4, 5))
    layer = BatchNorm(0.9, 1e-3, synchronized=synchronized)
    call = tf.function(layer) if graph else layer
    y = call(tf.constant(x, tf.float32), training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    # The moving variance takes the unbiased variance of 24 values.
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance * 24 / 23, rtol=1e-5)


@pytest.mark.parametrize("updates", [0, 1, 2])
def test_synchronized_batch_norm_on_two_replicas_moves_its_statistics_as_often_as_on_one(
    updates: int, two_replicas: tf.distribute.Strategy
) -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 3, 3, 2)).astype(np.float32)
    with two_replicas.scope():
        layer = BatchNorm(0.9, 1e-3, synchronized=True)
        layer.build(tf.TensorShape([None, None, None, 2]))
    module = tf.Module()
    module.layers = [layer]

    @tf.function
    def step(x: tf.Tensor) -> None:
        with statistics_updates(module, updates):
            layer(x, training=True)

    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[context.replica_id_in_sync_group :: 2])
    )
    two_replicas.run(step, args=(halves,))
    kept = 0.9**updates
    for moving, start, batch in (
        (layer.moving_mean, 0, x.mean((0, 1, 2))),
        (layer.moving_variance, 1, x.var((0, 1, 2), ddof=1)),
    ):
        for copy in two_replicas.experimental_local_results(moving):
            np.testing.assert_allclose(copy, kept * start + (1 - kept) * batch, rtol=1e-5)


def test_batch_norm_inference_uses_moving_statistics_and_changes_nothing() -> None:
    layer = BatchNorm(0.9, 1e-3, scale=False)
    layer.build(tf.TensorShape([None, None, None, 2]))
    layer.moving_mean.assign([1.0, -1.0])
    layer.moving_variance.assign([4.0, 9.0])
    layer.beta.assign([0.5, 0.0])
    y = layer(tf.constant([[[[3.0, 2.0]]]]))
    np.testing.assert_allclose(y[0, 0, 0], [2 / np.sqrt(4.001) + 0.5, 3 / np.sqrt(9.001)], rtol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, [1, -1])


def test_dropout_scales_what_it_keeps_and_repeats_from_saved_state(tmp_path) -> None:
    layer = Dropout(0.8, seed=3)
    saved = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "state"))
    x = tf.ones([1, 50, 50, 4])
    first = layer(x, training=True).numpy()
    assert set(np.unique(first)) == {np.float32(0), np.float32(1.25)}
    assert abs((first > 0).mean() - 0.8) < 0.02
    assert not np.array_equal(first, layer(x, training=True))
    restored = Dropout(0.8, seed=99)
    tf.train.Checkpoint(layer=restored).read(saved).assert_consumed()
    np.testing.assert_array_equal(restored(x, training=True), first)
    np.testing.assert_array_equal(layer(x), x)


def test_align_corners_keeps_the_corners_and_the_grid() -> None:
    x = tf.reshape(tf.range(9.0), [1, 3, 3, 1])
    y = resize_align_corners(x, (9, 9))[0, ..., 0].numpy()
    np.testing.assert_allclose(y[::4, ::4], x[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(y[0], np.linspace(0, 2, 9), atol=1e-6)


def test_mask_resize_takes_the_reference_rows() -> None:
    rows = tf.tile(tf.range(97.0)[tf.newaxis, :, tf.newaxis], [1, 1, 97])
    np.testing.assert_array_equal(resize_mask(rows, (25, 25))[0, :5, 0], [0, 3, 7, 11, 15])
    np.testing.assert_array_equal(resize_mask(rows[:, :25, :25], (7, 7))[0, :, 0], [0, 3, 7, 10, 14, 17, 21])


@pytest.mark.parametrize(
    ("rows", "cells", "taken"), [(9, 3, [0, 4, 8]), (10, 4, [0, 3, 6, 9]), (4, 3, [0, 2, 3]), (5, 1, [0])]
)
def test_mask_resize_with_aligned_corners_rounds_halves_up(rows: int, cells: int, taken: list[int]) -> None:
    mask = tf.tile(tf.range(float(rows))[tf.newaxis, :, tf.newaxis], [2, 1, rows])
    np.testing.assert_array_equal(resize_mask(mask, (cells, rows), align_corners=True)[1, :, 0], taken)
