"""Prediction: padding rule, agreement with a plain computation, and the Predictor's requirements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoseg_tf.inference import predict
from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.nn.pyramid import scaled_size
from pseudoseg_tf.nn.sliding_window import window_starts
from tests.tiny import TinyModel, decide, random_images, resize_plainly


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


class Recorder(TinyModel):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tf.Tensor] = []

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        self.seen.append(images)
        return super().call(images, training)


def test_predict_equals_the_plain_computation_on_an_image_that_needs_no_padding() -> None:
    model = TinyModel()
    images = random_images(2, 33, 49)
    labels, probabilities = predict(model, tf.constant(images), (0, 0))
    logits = model.convolution(images.astype(np.float32) * (2 / 255) - 1).numpy()
    expected = softmax(resize_plainly(logits, (33, 49)))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, expected.argmax(-1))
    assert labels.dtype == tf.uint8 and probabilities.dtype == tf.float32


@pytest.mark.parametrize(
    ("minimum", "canvas"), [((0, 0), (33, 65)), ((49, 49), (49, 65)), ((97, 81), (97, 81))]
)
def test_predict_pads_to_the_canvas_with_the_mean_pixel(
    minimum: tuple[int, int], canvas: tuple[int, int]
) -> None:
    model = Recorder()
    images = random_images(1, 20, 50)
    labels, probabilities = predict(model, tf.constant(images), minimum)
    assert labels.shape == [1, 20, 50] and probabilities.shape == [1, 20, 50, 3]
    seen = model.seen[-1].numpy()
    assert seen.shape == (1, *canvas, 3)
    np.testing.assert_allclose(seen[:, :20, :50], images * (2 / 255) - 1, atol=1e-6)
    assert not seen[:, 20:].any() and not seen[:, :, 50:].any()


def test_predict_is_the_same_for_an_image_and_its_padded_version() -> None:
    model = TinyModel()
    images = random_images(2, 20, 50)
    padded = np.full([2, 49, 65, 3], 77, np.uint8)
    padded[0, :20, :50] = images[0]
    padded[1, :20, :41] = images[1, :, :41]
    labels, probabilities = predict(model, tf.constant(padded), (49, 65), tf.constant([[20, 50], [20, 41]]))
    assert labels.shape == [2, 49, 65]
    for index, width in enumerate([50, 41]):
        alone, sure = predict(model, tf.constant(images[index : index + 1, :, :width]), (49, 65))
        np.testing.assert_array_equal(labels[index, :20, :width], alone[0])
        np.testing.assert_allclose(probabilities[index, :20, :width], sure[0], atol=1e-6)


def test_predict_with_unknown_sizes_equals_known_sizes() -> None:
    model = TinyModel()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def dynamic(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict(model, images, (33, 33))

    for shape in [(1, 20, 50), (3, 33, 33), (2, 1, 1)]:
        images = tf.constant(random_images(*shape))
        labels, probabilities = dynamic(images)
        assert labels.shape == shape
        expected = predict(model, images, (33, 33))
        np.testing.assert_array_equal(labels, expected[0])
        np.testing.assert_allclose(probabilities, expected[1], atol=1e-6)


class HalfModel(TinyModel):
    """Returns bfloat16 logits."""

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(super().call(images, training), tf.bfloat16)


def test_predict_computes_the_softmax_in_float32_whatever_the_model_returns() -> None:
    images = tf.constant(random_images(1, 17, 17))
    _, probabilities = predict(HalfModel(), images, (0, 0))
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities, predict(TinyModel(), images, (0, 0))[1], atol=0.05)


def small_network() -> PseudoSegModel:
    model = build_model(3, width_multiplier=0.25, aspp_channels=8, decoder_channels=8, attention_dim=8)
    decide(model)
    return model


@pytest.mark.parametrize("eval_size", [(0, 0), (33, 65)])
def test_predict_on_the_network_does_not_see_what_padding_held(eval_size: tuple[int, int]) -> None:
    model = small_network()
    image = random_images(1, 20, 50)
    padded = np.full([1, 33, 65, 3], 200, np.uint8)
    padded[:, :20, :50] = image
    _, alone = predict(model, tf.constant(image), eval_size)
    _, inside = predict(model, tf.constant(padded), eval_size, tf.constant([[20, 50]]))
    np.testing.assert_allclose(inside[:, :20, :50], alone, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_predict_without_scales_and_flip_is_one_pass_and_nothing_else(graph: bool) -> None:
    model = small_network()
    images = tf.constant(random_images(2, 20, 50))

    def one_pass(images: tf.Tensor) -> tf.Tensor:
        border = [[0, 0], [0, 13], [0, 15]]
        padded = tf.pad(tf.cast(images, tf.float32), [*border, [0, 0]])
        valid = tf.pad(tf.ones([2, 20, 50]), border)
        logits = resize_align_corners(model(model.normalize(padded, valid), training=False), (33, 65))
        return tf.nn.softmax(logits[:, :20, :50])

    how = tf.function if graph else lambda function: function
    _, probabilities = how(lambda images: predict(model, images, (0, 0)))(images)
    np.testing.assert_array_equal(probabilities, how(one_pass)(images))


def plain_mean(
    model: TinyModel, image: np.ndarray, canvas: tuple[int, int], scales: Sequence[float], flip: bool
) -> np.ndarray:
    """Probabilities [H, W, C] of one image [H, W, 3]: one pass after another."""
    height, width, _ = image.shape
    passes = []
    for mirrored in (False, True) if flip else (False,):
        normalized = np.zeros((1, *canvas, 3))
        normalized[0, :height, :width] = (image[:, ::-1] if mirrored else image) * (2 / 255) - 1
        for scale in scales:
            small = resize_plainly(normalized, tuple(int((side - 1) * scale + 1) for side in canvas))
            logits = model.convolution(small.astype(np.float32)).numpy()
            cells = tuple(int((side - 1) * max(1, scale) / 4 + 1) for side in canvas)
            one = softmax(resize_plainly(resize_plainly(logits, cells), canvas))[0, :height, :width]
            passes.append(one[:, ::-1] if mirrored else one)
    return np.mean(passes, 0)


@pytest.mark.parametrize("how", ["eager", "graph", "unknown sizes"])
@pytest.mark.parametrize(
    ("scales", "flip"),
    [((1.0,), True), ((0.5,), False), ((0.5, 1.0, 1.3), False), ((0.5, 0.75, 1.0, 1.75), True)],
)
def test_predict_averages_over_scales_and_flips(scales: tuple[float, ...], flip: bool, how: str) -> None:
    model = TinyModel()
    images = np.full([2, 33, 49, 3], 77, np.uint8)
    sizes = [(20, 30), (33, 41)]
    for index, (height, width) in enumerate(sizes):
        images[index, :height, :width] = random_images(height, width, seed=index)

    def run(images: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict(model, images, (0, 0), sizes, scales, flip)

    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 2], tf.int32)]
    if how != "eager":
        run = tf.function(run, input_signature=signature if how == "unknown sizes" else None)
    labels, probabilities = run(tf.constant(images), tf.constant(sizes))
    assert labels.dtype == tf.uint8 and probabilities.dtype == tf.float32
    np.testing.assert_array_equal(labels, np.argmax(probabilities, -1))
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), 1, atol=1e-6)
    for index, (height, width) in enumerate(sizes):
        expected = plain_mean(model, images[index, :height, :width], (33, 49), scales, flip)
        np.testing.assert_allclose(probabilities[index, :height, :width], expected, atol=2e-5)


@settings(max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scales=st.lists(st.sampled_from([0.5, 0.75, 0.9, 1.0, 1.25, 1.75]), min_size=1, max_size=4),
    padded=st.booleans(),
)
def test_mirrored_image_has_the_mirrored_probabilities(
    height: int, width: int, scales: list[float], padded: bool
) -> None:
    model = TinyModel()
    image = random_images(1, height, width)
    labels, probabilities = predict(model, tf.constant(image), (49, 65), scales=scales, flip=True)
    mirrored, sizes = image[:, :, ::-1], None
    if padded:
        mirrored = np.pad(mirrored, [(0, 0), (0, 49 - height), (0, 65 - width), (0, 0)])
        sizes = tf.constant([[height, width]])
    found = predict(model, tf.constant(mirrored), (49, 65), sizes, scales, flip=True)
    np.testing.assert_array_equal(found[0][:, :height, :width], labels[:, :, ::-1])
    np.testing.assert_array_equal(found[1][:, :height, :width], probabilities[:, :, ::-1])


def test_mirrored_image_has_the_mirrored_probabilities_of_the_network() -> None:
    model, images = small_network(), random_images(2, 20, 50)
    options = {"scales": (0.5, 1.0, 1.5), "flip": True}
    _, probabilities = predict(model, tf.constant(images), (0, 0), **options)
    _, mirrored = predict(model, tf.constant(images[:, :, ::-1]), (0, 0), **options)
    np.testing.assert_array_equal(mirrored, probabilities[:, :, ::-1])
    _, alone = predict(model, tf.constant(images), (0, 0))
    assert np.abs(alone - probabilities).max() > 1e-3


def plain_windows(
    model: TinyModel, image: np.ndarray, canvas: tuple[int, int], scale: float, window: int, starts: dict
) -> np.ndarray:
    """Mean probabilities [H, W, C] over square windows of one image [H, W, 3] on its canvas, at one scale."""
    height, width, _ = image.shape
    normalized = np.zeros((1, *canvas, 3))
    normalized[0, :height, :width] = image * (2 / 255) - 1
    sides = tuple(int((side - 1) * scale + 1) for side in canvas)
    scaled = np.zeros((1, *(max(side, window) for side in sides), 3))
    scaled[:, : sides[0], : sides[1]] = resize_plainly(normalized, sides)
    total, count = np.zeros((*scaled.shape[1:3], 3)), np.zeros(scaled.shape[1:3])
    for top in starts[scaled.shape[1]]:
        for left in starts[scaled.shape[2]]:
            part = np.s_[top : top + window, left : left + window]
            logits = model.convolution(scaled[0][part][np.newaxis].astype(np.float32)).numpy()
            total[part] += softmax(resize_plainly(logits, (window, window)))[0]
            count[part] += 1
    assert count.min() > 0
    mean = (total / count[..., np.newaxis])[np.newaxis, : sides[0], : sides[1]]
    return resize_plainly(mean, canvas)[0, :height, :width]


@pytest.mark.parametrize("how", ["eager", "graph", "unknown sizes"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("scales", "starts"),
    [
        # A window of 17 that overlaps the next by 0.3: the next begins 11 pixels on.
        ((1.0,), {33: [0, 11, 16], 49: [0, 11, 22, 32]}),
        ((1.5, 0.25), {49: [0, 11, 22, 32], 73: [0, 11, 22, 33, 44, 55, 56], 17: [0]}),
    ],
)
def test_sliding_window_equals_the_plain_computation(
    scales: tuple[float, ...], starts: dict[int, list[int]], flip: bool, how: str
) -> None:
    model = TinyModel()
    images = random_images(2, 33, 49)
    sizes = [(20, 30), (33, 41)]

    def run(images: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict(model, images, (0, 0), sizes, scales, flip, window=(17, 17), overlap=0.3)

    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 2], tf.int32)]
    if how != "eager":
        run = tf.function(run, input_signature=signature if how == "unknown sizes" else None)
    labels, probabilities = run(tf.constant(images), tf.constant(sizes))
    assert probabilities.shape == (2, 33, 49, 3)
    np.testing.assert_array_equal(labels, np.argmax(probabilities, -1))
    for index, (height, width) in enumerate(sizes):
        image = images[index, :height, :width]
        passes = [plain_windows(model, image, (33, 49), scale, 17, starts) for scale in scales]
        if flip:
            mirrored = image[:, ::-1]
            passes += [
                plain_windows(model, mirrored, (33, 49), scale, 17, starts)[:, ::-1] for scale in scales
            ]
        found = probabilities[index, :height, :width]
        np.testing.assert_allclose(found, np.mean(passes, 0), atol=1e-5)


def test_an_image_of_one_window_is_predicted_at_once() -> None:
    model, images = small_network(), tf.constant(random_images(2, 20, 50))
    _, whole = predict(model, images, (33, 65))
    _, windowed = predict(model, images, (0, 0), window=(33, 65), overlap=0.5)
    np.testing.assert_array_equal(windowed, whole)


@settings(max_examples=60)
@given(side=st.integers(1, 300), window=st.integers(1, 64), overlap=st.floats(0, 0.95))
def test_windows_lie_in_the_image_and_cover_it(side: int, window: int, overlap: float) -> None:
    side = max(side, window)
    starts = window_starts(side, window, overlap).numpy()
    assert starts[0] == 0 and starts[-1] == side - window
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= window).all()
    assert (steps[:-1] == max(1, int(window * (1 - overlap)))).all()
    assert window_starts(tf.constant(side), window, overlap).numpy().tolist() == starts.tolist()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.3, 2.0])
def test_padding_is_the_mean_pixel_at_every_scale_and_on_the_same_side_of_a_mirrored_image(
    scale: float,
) -> None:
    model = Recorder()
    predict(model, tf.constant(random_images(1, 20, 50)), (0, 0), scales=(scale,), flip=True)
    for seen in (model.seen[-2].numpy(), model.seen[-1].numpy()):
        assert seen.shape == (1, scaled_size(33, scale), scaled_size(65, scale), 3)
        # What lies at or behind the first row of padding, 20, and its first column, 50.
        rows = np.arange(seen.shape[1]) * 32 / (seen.shape[1] - 1) > 20 - 1e-6
        columns = np.arange(seen.shape[2]) * 64 / (seen.shape[2] - 1) > 50 - 1e-6
        assert np.abs(seen[:, rows]).max() < 1e-5 and np.abs(seen[:, :, columns]).max() < 1e-5
        assert (np.abs(seen[:, ~rows][:, :, ~columns]).max(-1) > 1e-5).all()


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.5)])
def test_predict_refuses_scales(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="numbers greater than 0, found"):
        predict(TinyModel(), tf.constant(random_images(1, 17, 17)), (0, 0), scales=scales)
