"""Prediction: padding rule, agreement with a plain computation, and the Predictor's requirements."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.inference import predict
from pseudoseg_tf.nn.model import build_model
from tests.tiny import TinyModel, random_images


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

    # Bilinear with aligned corners, by hand: output row i reads source row i * (in - 1) / (out - 1).
    def weights(size: int, out: int) -> np.ndarray:
        at = np.arange(out)[:, None] * (size - 1) / (out - 1)
        return np.maximum(0, 1 - np.abs(at - np.arange(size)))

    resized = np.einsum("yh,xw,bhwc->byxc", weights(9, 33), weights(13, 49), logits)
    expected = np.exp(resized) / np.exp(resized).sum(-1, keepdims=True)
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


@pytest.mark.parametrize("eval_size", [(0, 0), (33, 65)])
def test_predict_on_the_network_does_not_see_what_padding_held(eval_size: tuple[int, int]) -> None:
    model = build_model(3, width_multiplier=0.25, aspp_channels=8, decoder_channels=8, attention_dim=8)
    image = random_images(1, 20, 50)
    padded = np.full([1, 33, 65, 3], 200, np.uint8)
    padded[:, :20, :50] = image
    _, alone = predict(model, tf.constant(image), eval_size)
    _, inside = predict(model, tf.constant(padded), eval_size, tf.constant([[20, 50]]))
    np.testing.assert_allclose(inside[:, :20, :50], alone, atol=1e-6)
