"""The weak view against resizing, padding and cropping one after the other, and against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoseg_tf.data import geometry
from pseudoseg_tf.data.specs import IGNORE_LABEL
from tests.tiny import resize_plainly, unrounded_view


def random_example(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, [height, width, 3], dtype=np.uint8)
    return image, rng.integers(0, 21, [height, width], dtype=np.uint8)


def make_draws(scaled: Any, offset: Any = (0, 0), flip: bool = False) -> geometry.GeometryDraws:
    return geometry.GeometryDraws(tf.constant(scaled), tf.constant(offset), tf.constant(flip))


def step_by_step(image: np.ndarray, labels: np.ndarray, draws: geometry.GeometryDraws, crop: tuple[int, int]):
    """Resizes the whole image, pads it, cuts the crop out and flips it; the image stays float32."""
    scaled = draws.scaled_size
    row, column = draws.offset.numpy()
    bottom, right = (max(int(side) - int(size), 0) for side, size in zip(crop, scaled, strict=True))

    def cut(picture: tf.Tensor, fill: int) -> np.ndarray:
        padded = tf.pad(picture, [[0, bottom], [0, right], [0, 0]], constant_values=fill)
        crop_out = padded[row : row + crop[0], column : column + crop[1]].numpy()
        return crop_out[:, ::-1] if draws.flip else crop_out

    resized = tf.image.resize(image, scaled, antialias=True)
    nearest = tf.compat.v1.image.resize_nearest_neighbor(labels[None, ..., None], scaled, align_corners=True)[
        0
    ]
    inside = tf.ones([*scaled.numpy(), 1], tf.uint8)
    return cut(resized, 0), cut(nearest, IGNORE_LABEL)[..., 0], cut(inside, 0)[..., 0]


@st.composite
def weak_views(draw):
    size = np.array(draw(st.tuples(st.integers(1, 40), st.integers(1, 40))))
    crop = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    scale = draw(st.sampled_from([0.5, 0.7, 0.75, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0]))
    scaled = geometry.scaled_size(tf.constant(size, tf.int32), tf.constant(scale, tf.float32)).numpy()
    offset = [draw(st.integers(0, max(int(s) - c, 0))) for s, c in zip(scaled, crop, strict=True)]
    return random_example(*size), make_draws(scaled, offset, draw(st.booleans())), crop


@settings(max_examples=80)
@given(weak_views())
def test_one_sampling_equals_resize_pad_crop_flip(view):
    (image, labels), draws, crop = view
    expected_image, expected_labels, expected_valid = step_by_step(image, labels, draws, crop)
    np.testing.assert_allclose(unrounded_view(image, draws, crop), expected_image, atol=0.01)

    weak_image, weak_labels, valid = geometry.weak_view(image, labels, draws, crop)
    assert weak_image.dtype == weak_labels.dtype == valid.dtype == tf.uint8
    np.testing.assert_allclose(weak_image, expected_image, atol=0.51)
    np.testing.assert_array_equal(weak_labels, expected_labels)
    np.testing.assert_array_equal(valid, expected_valid)


def test_the_scaled_image_never_exists():
    def view(image, labels, seed):
        draws = geometry.geometry_draws(seed, tf.shape(labels), (513, 513), 0.5, 2.0, 0.25)
        return geometry.weak_view(image, labels, draws, (513, 513))

    signature = [
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([None, None], tf.uint8),
        tf.TensorSpec([2], tf.int64),
    ]
    graph = tf.function(view).get_concrete_function(*signature).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("PyFunc") == 1
    assert not [kind for kind in kinds if kind.startswith(("Resize", "Scale", "Pad"))]
    assert [output.shape.as_list() for output in graph.structured_outputs] == [
        [513, 513, 3],
        [513, 513],
        [513, 513],
    ]


def test_weak_view_is_the_same_in_a_data_set():
    image, labels = random_example(23, 31)

    def view(seed):
        draws = geometry.geometry_draws(seed, tf.shape(labels), (33, 17), 0.5, 2.0, 0.25)
        return geometry.weak_view(tf.constant(image), tf.constant(labels), draws, (33, 17))

    seeds = [np.array([5, number], np.int64) for number in range(12)]
    for seed, inside in zip(seeds, tf.data.Dataset.from_tensor_slices(seeds).map(view), strict=True):
        for one, other in zip(view(tf.constant(seed)), inside, strict=True):
            np.testing.assert_array_equal(one, other)


def many_draws(
    image_size: tuple[int, int], crop: tuple[int, int], count: int = 600
) -> geometry.GeometryDraws:
    """Draws for seeds [7, 0], [7, 1], ... as arrays with a leading dimension."""
    seeds = tf.data.Dataset.range(count).map(
        lambda number: geometry.geometry_draws(
            tf.stack([tf.constant(7, tf.int64), number]), tf.constant(image_size), crop, 0.5, 2.0, 0.25
        )
    )
    return geometry.GeometryDraws(*(part.numpy() for part in next(iter(seeds.batch(count)))))


def test_draws_reach_every_scale_offset_and_flip_evenly():
    draws = many_draws((8, 12), (9, 9), 600)
    scaled, counts = np.unique(draws.scaled_size, axis=0, return_counts=True)
    np.testing.assert_array_equal(scaled, [[4, 6], [6, 9], [8, 12], [10, 15], [12, 18], [14, 21], [16, 24]])
    # 600 draws of 7 values: 86 +- 9 each.
    assert counts.min() > 50 and counts.max() < 122
    for size in scaled:
        rows, columns = draws.offset[(draws.scaled_size == size).all(axis=1)].T
        assert set(rows) == set(range(max(size[0] - 9, 0) + 1))
        assert set(columns) == set(range(max(size[1] - 9, 0) + 1))
    assert 250 < np.sum(draws.flip) < 350


def test_draws_depend_on_nothing_but_the_arguments():
    first, second = many_draws((8, 12), (9, 9), 30), many_draws((8, 12), (9, 9), 30)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    other_crop = many_draws((8, 12), (5, 5), 30)
    np.testing.assert_array_equal(other_crop.scaled_size, first.scaled_size)


@pytest.mark.parametrize(
    ("smallest", "largest", "step", "expected"),
    [
        (0.5, 2.0, 0.25, [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]),
        (0.5, 0.6, 0.1, [0.5, 0.6]),
        (0.7, 1.0, 0.1, [0.7, 0.8, 0.9, 1.0]),
        (1.0, 1.0, 0.25, [1.0]),
        (0.5, 1.0, 0.3, [0.5, 0.8]),
    ],
)
def test_scale_factors(smallest, largest, step, expected):
    factors = geometry.scale_factors(smallest, largest, step)
    assert factors.dtype == np.float32
    np.testing.assert_array_equal(factors, np.float32(expected))


def test_scaled_size_is_cut_to_an_integer_and_never_zero():
    half = geometry.scaled_size(tf.constant([37, 1]), tf.constant(0.5))
    np.testing.assert_array_equal(half, [18, 1])


def range_size_in_numpy(size: tuple[int, int], minimum: int, maximum: int, factor: int) -> np.ndarray:
    """The rule step by step, one float32 operation after the other."""
    if maximum and factor:
        maximum = (maximum - 1) // factor * factor + 1
    sides = np.float32(size)
    result = np.int32(sides * (np.float32(minimum) / sides.min()))
    if maximum and result.max() > maximum:
        result = np.int32(sides * (np.float32(maximum) / sides.max()))
    result = np.maximum(result, 1)
    return -(-(result - 1) // factor) * factor + 1 if factor else result


@st.composite
def ranges(draw):
    """An image size, and limits that validation lets pass."""
    size = draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    minimum, factor = draw(st.integers(1, 600)), draw(st.sampled_from([0, 1, 8, 16, 32, 47]))
    maximum = draw(st.one_of(st.just(0), st.integers(max(minimum, factor + 1), 1200)))
    return size, (minimum, maximum, factor)


@settings(max_examples=300)
@given(ranges())
def test_sides_are_in_range(drawn):
    size, (minimum, maximum, factor) = drawn
    result = geometry.range_size(tf.constant(size), minimum, maximum, factor).numpy()
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, range_size_in_numpy(size, minimum, maximum, factor))
    assert result.min() >= 1
    if maximum:
        assert result.max() <= maximum
    if factor:
        np.testing.assert_array_equal(result % factor, 1 % factor)
    else:
        # One pixel less where float32 falls short of the integer.
        to_minimum, to_maximum = result.min() - minimum in (-1, 0), result.max() - maximum in (-1, 0)
        assert to_minimum or to_maximum


def test_sides_are_the_same_in_a_data_set():
    sizes = np.random.default_rng(0).integers(1, 700, [200, 2]).astype(np.int32)
    mapped = tf.data.Dataset.from_tensor_slices(sizes).map(lambda size: geometry.range_size(size, 24, 96, 8))
    for size, found in zip(sizes, mapped.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(found, range_size_in_numpy(tuple(size), 24, 96, 8))


@settings(max_examples=60)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(1, 40), st.sampled_from([0, 8]))
def test_resize_to_a_range_aligns_the_corners(size, minimum, factor):
    image, labels = random_example(*size)
    resized, resized_labels = geometry.resize_to_range(image, labels, minimum, 64, factor)
    assert resized.dtype == tf.float32 and resized_labels.dtype == tf.uint8
    expected_size = range_size_in_numpy(size, minimum, 64, factor)
    np.testing.assert_allclose(resized, resize_plainly(image[None], expected_size)[0], atol=0.02)
    nearest = tf.compat.v1.image.resize_nearest_neighbor(
        labels[None, ..., None], expected_size, align_corners=True
    )
    np.testing.assert_array_equal(resized_labels, nearest[0, ..., 0])


def test_padded_size_of_integers_and_tensors():
    sizes = [1, 2, 16, 17, 18, 33, 375, 500, 512, 513, 514]
    expected = [1, 17, 17, 17, 33, 33, 385, 513, 513, 513, 529]
    assert [geometry.padded_size(size, 0) for size in sizes] == expected
    np.testing.assert_array_equal(geometry.padded_size(tf.constant(sizes), 0), expected)
    assert geometry.padded_size(375, 513) == 513
    np.testing.assert_array_equal(geometry.padded_size(tf.constant([375, 600]), 513), [513, 609])


def test_evaluation_view_pads_bottom_and_right():
    image, labels = random_example(3, 5)
    for canvas in [(4, 8), tf.constant([4, 8])]:
        padded_image, padded_labels = geometry.evaluation_view(
            tf.constant(image), tf.constant(labels), canvas
        )
        np.testing.assert_array_equal(padded_image, np.pad(image, [(0, 1), (0, 3), (0, 0)]))
        np.testing.assert_array_equal(
            padded_labels, np.pad(labels, [(0, 1), (0, 3)], constant_values=IGNORE_LABEL)
        )


@pytest.fixture(scope="module")
def reference(shared_dir):
    return np.load(shared_dir / "reference/A/augment.npz", allow_pickle=False)


@pytest.mark.needs_shared
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0])
def test_scaled_image_and_labels_are_the_reference(reference, scale):
    image, labels = reference["in:image_u8"], reference["in:label"][..., 0]
    expected = reference[f"scale:{scale:.2f}:image"]
    crop = expected.shape[:2]
    draws = make_draws(geometry.scaled_size(tf.constant([37, 53]), tf.constant(scale)))
    np.testing.assert_array_equal(draws.scaled_size, crop)
    np.testing.assert_allclose(unrounded_view(image, draws, crop), expected, atol=0.02)
    _, scaled_labels, valid = geometry.weak_view(image, labels, draws, crop)
    np.testing.assert_array_equal(scaled_labels, reference[f"scale:{scale:.2f}:label"][..., 0])
    assert np.all(valid)


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "scaled", "offset", "flip"),
    [
        ("crop33_scale2_order0123_offset2_11_cut20_5_flip0.2", (37, 53), (2, 11), True),
        ("crop65_scale1_order3102_offset0_0_cut10_60_flip0.9", (27, 39), (0, 0), False),
        ("crop41_scale6_order2310_offset30_60_cut0_40_flip0.4", (74, 106), (30, 60), True),
    ],
)
def test_weak_view_is_the_reference(reference, name, scaled, offset, flip):
    def expected(part: str) -> np.ndarray:
        return reference[f"pipeline:{name}:xception_65:labelled:{part}"]

    crop = expected("image").shape[:2]
    view = geometry.weak_view(
        reference["in:image_u8"], reference["in:label"][..., 0], make_draws(scaled, offset, flip), crop
    )
    image, labels, valid = (part.numpy() for part in view)
    np.testing.assert_array_equal(valid, expected("valid")[..., 0])
    np.testing.assert_array_equal(labels, expected("label")[..., 0])
    # uint8: up to half a level from rounding.
    np.testing.assert_allclose(image[valid > 0], expected("image")[valid > 0], atol=0.52)


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ((64, 96, 16), (65, 81)),
        ((64, 80, 0), (55, 80)),
        ((30, 96, 16), (33, 49)),
        # In exact arithmetic the height would be 24.
        ((24, 0, 0), (23, 34)),
        ((20, 48, 8), (25, 33)),
    ],
)
def test_resize_to_a_range_is_the_reference(reference, limits, size):
    image, labels = reference["in:image_u8"], reference["in:label"][..., 0]
    resized, resized_labels = geometry.resize_to_range(image, labels, *limits)
    assert resized.shape == (*size, 3)
    name = "range:min_{}_max_{}_factor_{}:".format(*(limit or None for limit in limits))
    np.testing.assert_allclose(resized, reference[name + "image"], atol=0.02)
    np.testing.assert_array_equal(resized_labels, reference[name + "label"][..., 0])
