"""The batched strong view against `tf.image`, image by image, and against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.data import color, geometry
from tests.tiny import unrounded_view

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
NEUTRAL = np.array([0, 1, 1, 0], np.float32)


def random_batch(batch: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with grey, black, white and saturated pixels among others, and valid rectangles at the top left."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, [batch, height, width, 3]).astype(np.float32)
    images[:, 0, :4] = [[0, 0, 0], [255, 255, 255], [90, 90, 90], [255, 0, 0]]
    images[:, 1, :3] = [[20, 200, 200], [200, 20, 200], [200, 200, 20]]
    valid = np.zeros([batch, height, width], np.uint8)
    for mask, rows, columns in zip(
        valid, rng.integers(2, height + 1, batch), rng.integers(4, width + 1, batch), strict=True
    ):
        mask[:rows, :columns] = 1
    return images, valid


def batched_draws(batch: int, crop_size: tuple[int, int], strength: float = 1.0) -> color.StrongDraws:
    """Draws with seeds [11, 0], [11, 1], ...; the orders run through all permutations."""
    seeds = tf.data.Dataset.range(batch).map(
        lambda number: color.strong_draws(tf.stack([tf.constant(11, tf.int64), number]), crop_size, strength)
    )
    draws = color.StrongDraws(*next(iter(seeds.batch(batch))))
    return draws._replace(order=tf.constant(ORDERS[np.arange(batch) % 24]))


def jitter_one(image: np.ndarray, jitter: np.ndarray, order: np.ndarray) -> tf.Tensor:
    """The jitter by its definition: float32 [h, w, 3] in [0, 1], all of it inside the image."""
    operations = (
        tf.image.adjust_brightness,
        tf.image.adjust_contrast,
        tf.image.adjust_saturation,
        tf.image.adjust_hue,
    )
    picture = tf.constant(image)
    for number in order:
        picture = tf.clip_by_value(operations[number](picture, float(jitter[number])), 0, 1)
    return picture


def test_every_order_equals_tf_image_on_the_valid_part():
    images, valid = random_batch(48, 9, 13)
    draws = batched_draws(48, (9, 13))
    strong, strong_valid = color.strong_view(tf.constant(images), tf.constant(valid), draws, 0)
    assert strong.dtype == tf.float32
    np.testing.assert_array_equal(strong_valid, valid)
    for image, mask, jitter, order, actual in zip(
        images, valid, draws.jitter, draws.order, strong, strict=True
    ):
        rows, columns = mask[:, 0].sum(), mask[0].sum()
        expected = 255 * jitter_one(image[:rows, :columns] / 255, jitter.numpy(), order.numpy())
        np.testing.assert_allclose(actual[:rows, :columns], expected, atol=0.01)
        np.testing.assert_array_equal(actual.numpy()[mask == 0], 127.5)


@pytest.mark.parametrize("number", range(4))
def test_the_extremes_of_each_operation_equal_tf_image(number):
    images, _ = random_batch(2, 9, 13)
    # Beyond the reference's range too, where saturation is clipped and the hue goes round.
    for amount in [(-0.5, 0.5), (0.5, 1.5), (0.5, 3.0), (-1.0, 0.9)][number]:
        jitter = np.tile(NEUTRAL, [2, 1])
        jitter[:, number] = amount
        actual = color.color_jitter(
            tf.constant(images / 255), tf.ones([2, 9, 13]), tf.constant(jitter), tf.constant(ORDERS[[0, -1]])
        )
        for image, one in zip(images, actual, strict=True):
            np.testing.assert_allclose(one, jitter_one(image / 255, jitter[0], [number]), atol=4e-5)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["function", "xla"])
def test_compiled_equals_eager(jit_compile):
    images, valid = random_batch(24, 17, 17)
    draws = batched_draws(24, (17, 17))
    compiled = tf.function(color.strong_view, jit_compile=jit_compile)
    arguments = tf.constant(images), tf.constant(valid), draws
    strong, strong_valid = compiled(*arguments, cutout=4)
    eager, eager_valid = color.strong_view(*arguments, cutout=4)
    np.testing.assert_array_equal(strong_valid, eager_valid)
    np.testing.assert_allclose(strong, eager, atol=0.01)


def test_neutral_jitter_keeps_every_pixel_in_its_place():
    images, valid = random_batch(24, 17, 17)
    draws = batched_draws(24, (17, 17), strength=0)
    np.testing.assert_array_equal(draws.jitter, np.tile(NEUTRAL, [24, 1]))
    strong, strong_valid = color.strong_view(tf.constant(images), tf.constant(valid), draws, 3)
    kept = strong_valid.numpy() > 0
    assert 0 < kept.sum() < valid.sum()
    np.testing.assert_allclose(strong.numpy()[kept], images[kept], atol=1e-3)


def test_jitter_looks_at_no_neighbors():
    # Reversing the pixels and jittering commute: the strong view stays aligned with the weak one.
    images, valid = random_batch(24, 9, 13)
    draws = batched_draws(24, (9, 13))
    turned, _ = color.strong_view(
        tf.constant(images[:, ::-1, ::-1]), tf.constant(valid[:, ::-1, ::-1]), draws, 0
    )
    straight, _ = color.strong_view(tf.constant(images), tf.constant(valid), draws, 0)
    np.testing.assert_allclose(turned.numpy()[:, ::-1, ::-1], straight, atol=0.01)


def test_contrast_turns_about_the_mean_of_valid_pixels():
    image = np.full([1, 2, 4, 3], 255, np.float32)
    image[0, :, :2] = [[[60, 0, 0], [100, 0, 0]]] * 2
    valid = np.array([[[1, 1, 0, 0]] * 2], np.uint8)
    jitter = tf.constant([[0, 0.5, 1, 0]])
    draws = color.StrongDraws(jitter, tf.constant(ORDERS[:1]), tf.zeros([1, 2], tf.int32))
    strong, _ = color.strong_view(tf.constant(image), tf.constant(valid), draws, 0)
    np.testing.assert_allclose(strong[0, 0], [[70, 0, 0], [90, 0, 0], [127.5] * 3, [127.5] * 3], atol=1e-4)


def test_an_image_of_padding_alone_stays_finite():
    draws = batched_draws(24, (5, 5))
    strong, _ = color.strong_view(tf.zeros([24, 5, 5, 3]), tf.zeros([24, 5, 5], tf.uint8), draws, 2)
    np.testing.assert_array_equal(strong, np.full([24, 5, 5, 3], 127.5))


@pytest.mark.parametrize("half_side", [1, 5, 50])
def test_cutout_is_the_clipped_box(half_side):
    centers = [(18, 26), (0, 0), (36, 52), (3, 50), (30, 4)]
    box = color.cutout_box(tf.constant(centers), tf.constant([37, 53]), half_side)
    for (row, column), actual in zip(centers, box, strict=True):
        expected = np.zeros([37, 53], bool)
        expected[
            max(0, row - half_side) : row + half_side, max(0, column - half_side) : column + half_side
        ] = True
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_valid_marks_exactly_padding_and_cutout(dtype):
    images, valid = random_batch(24, 17, 17)
    draws = batched_draws(24, (17, 17))
    _, strong_valid = color.strong_view(tf.constant(images), tf.constant(valid, dtype), draws, 4)
    assert strong_valid.dtype == dtype
    for before, (row, column), after in zip(valid, draws.cutout_center.numpy(), strong_valid, strict=True):
        before[max(0, row - 4) : row + 4, max(0, column - 4) : column + 4] = 0
        np.testing.assert_array_equal(after, before)


def test_draws_stay_in_their_ranges_and_fill_them():
    def draw(number: tf.Tensor) -> color.StrongDraws:
        return color.strong_draws(tf.stack([number, tf.constant(2, tf.int64)]), (5, 3), 1.0)

    draws = next(iter(tf.data.Dataset.range(1200).map(draw).batch(1200)))
    jitter = draws.jitter.numpy()
    low, high = np.array([-0.5, 0.5, 0.5, -0.25]), np.array([0.5, 1.5, 1.5, 0.25])
    assert np.all(jitter >= low) and np.all(jitter <= high)
    np.testing.assert_allclose(jitter.mean(axis=0), NEUTRAL, atol=0.04)
    np.testing.assert_allclose(jitter.min(axis=0), low, atol=0.01)
    np.testing.assert_allclose(jitter.max(axis=0), high, atol=0.01)
    orders, counts = np.unique(draws.order, axis=0, return_counts=True)
    np.testing.assert_array_equal(orders, ORDERS)
    # 1200 draws of 24 values: 50 +- 7 each.
    assert counts.min() > 25 and counts.max() < 80
    centers, counts = np.unique(draws.cutout_center, axis=0, return_counts=True)
    np.testing.assert_array_equal(centers, list(itertools.product(range(5), range(3))))
    assert counts.min() > 45 and counts.max() < 120
    for one, other in zip(draw(tf.constant(3, tf.int64)), draws, strict=True):
        np.testing.assert_array_equal(one, other[3])


def test_strength_scales_the_changes_and_never_inverts():
    weak, full, huge = (batched_draws(24, (9, 9), strength).jitter for strength in (0.5, 1.0, 5.0))
    np.testing.assert_allclose(weak - NEUTRAL, 0.5 * (full - NEUTRAL), atol=1e-6)
    assert huge.numpy()[:, 1:3].min() == 0


@pytest.fixture(scope="module")
def reference(shared_dir):
    return np.load(shared_dir / "reference/A/augment.npz", allow_pickle=False)


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "order", "jitter"),
    [
        ("colour:brightness:-0.5", (0, 1, 2, 3), (-0.5, 1, 1, 0)),
        ("colour:brightness:0.3", (1, 2, 3, 0), (0.3, 1, 1, 0)),
        ("colour:contrast:0.5", (1, 0, 2, 3), (0, 0.5, 1, 0)),
        ("colour:contrast:1.5", (0, 3, 2, 1), (0, 1.5, 1, 0)),
        ("colour:saturation:0.5", (0, 1, 2, 3), (0, 1, 0.5, 0)),
        ("colour:saturation:1.5", (2, 1, 0, 3), (0, 1, 1.5, 0)),
        ("colour:hue:-0.25", (0, 1, 2, 3), (0, 1, 1, -0.25)),
        ("colour:hue:0.05", (3, 1, 2, 0), (0, 1, 1, 0.05)),
        ("jitter:order_0123:b0.3_c1.4_s0.6_h0.1", (0, 1, 2, 3), (0.3, 1.4, 0.6, 0.1)),
        ("jitter:order_3210:b0.3_c1.4_s0.6_h0.1", (3, 2, 1, 0), (0.3, 1.4, 0.6, 0.1)),
        ("jitter:order_2031:b-0.4_c0.55_s1.45_h-0.2", (2, 0, 3, 1), (-0.4, 0.55, 1.45, -0.2)),
        ("jitter:order_1302:b0.45_c1.5_s0.5_h0.25", (1, 3, 0, 2), (0.45, 1.5, 0.5, 0.25)),
    ],
)
def test_jitter_is_the_reference(reference, name, order, jitter):
    images = tf.constant(reference["in:image_u8"][None], tf.float32)
    draws = color.StrongDraws(
        tf.constant([jitter], tf.float32), tf.constant([order]), tf.zeros([1, 2], tf.int32)
    )
    strong, _ = color.strong_view(images, tf.ones([1, 37, 53], tf.uint8), draws, 0)
    np.testing.assert_allclose(strong[0], 255 * reference[name], atol=0.02)


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("half_side", "row", "column"),
    [(5, 18, 26), (5, 0, 0), (5, 36, 52), (5, 3, 50), (9, 30, 4), (50, 18, 26)],
)
def test_cutout_is_the_reference(reference, half_side, row, column):
    expected = reference[f"cutout:pad_{half_side}_center_{row}_{column}:valid"][..., 0]
    draws = color.StrongDraws(tf.constant([NEUTRAL]), tf.constant(ORDERS[:1]), tf.constant([[row, column]]))
    _, valid = color.strong_view(tf.ones([1, 37, 53, 3]), tf.ones([1, 37, 53], tf.uint8), draws, half_side)
    np.testing.assert_array_equal(valid[0], expected)


@pytest.mark.needs_shared
def test_strong_view_of_a_padded_crop_is_the_reference(reference):
    name = "pipeline:crop65_scale1_order3102_offset0_0_cut10_60_flip0.9:xception_65:strong_weak:"
    geometry_draws = geometry.GeometryDraws(tf.constant([27, 39]), tf.constant([0, 0]), tf.constant(False))
    arguments = reference["in:image_u8"], geometry_draws, (65, 65)
    # The reference does not round the scaled image to uint8.
    image = tf.constant(unrounded_view(*arguments))
    _, _, valid = geometry.weak_view(reference["in:image_u8"], reference["in:label"][..., 0], *arguments[1:])
    draws = color.StrongDraws(
        tf.constant([[0.25, 1.3, 0.7, 0.12]]), tf.constant([[3, 1, 0, 2]]), tf.constant([[10, 60]])
    )
    strong, strong_valid = color.strong_view(image[tf.newaxis], valid[tf.newaxis], draws, 50)
    np.testing.assert_array_equal(strong_valid[0], reference[name + "valid"][..., 0])
    np.testing.assert_allclose(strong[0], reference[name + "strong"], atol=0.02)
