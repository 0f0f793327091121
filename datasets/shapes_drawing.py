"""Drawn scenes with exact masks: the pictures behind the `shapes_seg` data set.

A scene is a noisy, softly lit background with one to three textured objects that may hide one another,
and now and then an untextured object that counts as background. What tells a class is its *pattern*
(checks, dots, rings or bricks) alone: colors, orientation, scale, phase, duty and outline are random for every
object, and over the whole scene lies haze of any color. A network must learn what a pattern looks
like in any light, which a few labeled pictures teach badly and many teach well.

A close-up is one object of one pattern in clear air, with the name of the pattern for a label: what ImageNet is to
photographs.

Lengths are in *units* of 1/96 of the picture's side: `size` changes the sharpness of a scene, not its
content. Pictures in the making are planar, [3, size, size]: a factor for each pixel then applies to all
three channels. Only NumPy is needed; a picture depends on nothing but (seed, split, index, size).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

CLASS_NAMES: tuple[str, ...] = ("background", "checks", "dots", "rings", "bricks")
# One color per class; black background, the others far apart in hue.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (230, 60, 60),
    (70, 190, 80),
    (70, 110, 230),
    (240, 190, 50),
)
# Each split has its own stream of random numbers, so that no picture of one is a picture of another.
SPLITS: tuple[str, ...] = ("train", "val")
# The side of a picture in units.
UNITS = 96.0
# Smaller pictures cannot show the finest pattern: a period of 8 units is 4 pixels at this size.
MIN_SIZE = 48

# In units: radii of objects, and how far their centers keep from the border.
_SCENE_RADII, _SCENE_MARGIN = (20.0, 38.0), 14.0
_CLOSEUP_RADII, _CLOSEUP_MARGIN = (13.0, 50.0), 34.0

Array = npt.NDArray[np.float32]
Pattern = Callable[[Array, Array, float, float, np.random.Generator], Array]


def draw_example(
    seed: int, index: int, size: int, split: str = "train"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draws one picture and its mask.

    Within each block of as many consecutive indices as there are classes (0-3, 4-7, ...) every class is the
    main object of one picture, so the first few examples of a split always show all classes.

    Args:
      seed: names the data set, >= 0.
      index: number of the example in its split, >= 0.
      size: side of the picture in pixels, >= MIN_SIZE.
      split: one of SPLITS.

    Returns:
      image uint8 [size, size, 3] (RGB) and label uint8 [size, size] with ids from 0; every pixel
      has a class (no 255). A pixel belongs to an object if the object covers at least half of it.

    Raises:
      ValueError: an argument is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    _check(seed, index, size)
    scene, pixels = _generator(seed, split, 0, index), _generator(seed, split, 1, index)
    classes = _classes_back_to_front(seed, split, index, scene)
    surfaces = [CLASS_NAMES[label] if label else "plain" for label in classes]
    return _draw(surfaces, _SCENE_RADII, _SCENE_MARGIN, size, scene, pixels, haze=True)


def draw_closeup(seed: int, index: int, size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Draws one object in the middle of a picture; the patterns take turns.

    Returns:
      image uint8 [size, size, 3] (RGB), and which of CLOSEUP_NAMES it shows.

    Raises:
      ValueError: an argument is out of range.
    """
    _check(seed, index, size)
    kind = index % len(CLOSEUP_NAMES)
    scene, pixels = _generator(seed, "closeup", 0, index), _generator(seed, "closeup", 1, index)
    image, _ = _draw([CLOSEUP_NAMES[kind]], _CLOSEUP_RADII, _CLOSEUP_MARGIN, size, scene, pixels, haze=False)
    return image, kind


def _check(seed: int, index: int, size: int) -> None:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got {seed} and {index}")
    if size < MIN_SIZE:
        raise ValueError(f"size must be >= {MIN_SIZE}, got {size}")


def _draw(
    surfaces: Sequence[str],
    radii: tuple[float, float],
    margin: float,
    size: int,
    scene: np.random.Generator,
    pixels: np.random.Generator,
    haze: bool,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Image and mask of objects, each in front of the ones before it.

    Args:
      surfaces: of each object, one of CLOSEUP_NAMES; those that are no class belong to the background.
      radii: least and greatest radius of an object in units.
      margin: least distance of an object's center from the border in units.
      scene, pixels: randomness; pixel noise has its own, for how much of it is drawn depends on ``size``, and
        the scene must not.
      haze: draw it over the scene.
    """
    pixel = UNITS / size
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(pixel)
    x, y = np.meshgrid(axis, axis)
    angle = scene.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    image = _background(size, scene)
    label = np.zeros((size, size), np.uint8)
    centers: list[Array] = []
    for name in surfaces:
        centers.append(_place(centers, margin, scene))
        distance = _outline(x - centers[-1][0], y - centers[-1][1], radii, scene)
        cover = _soft_step(-distance, pixel)
        surface = (
            _textured_surface(x, y, _PATTERNS[name], pixel, scene)
            if name in _PATTERNS
            else _plain_surface(size, scene)
        )
        surface = surface * _relief(distance, light, pixel, scene)
        image *= 1 - _shadow(distance, light, pixel, scene)
        image += (surface - image) * cover
        label[cover >= 0.5] = CLASS_NAMES.index(name) if name in CLASS_NAMES else 0

    image *= _illumination(x, y, light, scene)
    if haze:
        image = _haze(image, scene)
    image = _camera(image, scene, pixels)
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0)), label


def _generator(seed: int, split: str, stream: int, index: int) -> np.random.Generator:
    key = ((*SPLITS, "closeup").index(split), stream, index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _classes_back_to_front(seed: int, split: str, index: int, rng: np.random.Generator) -> list[int]:
    """Class ids of the objects in drawing order; 0 is an untextured object."""
    classes = len(CLASS_NAMES) - 1
    order = _generator(seed, split, 2, index // classes).permutation(classes)
    main = 1 + int(order[index % classes])
    more = rng.choice(3, p=(0.55, 0.35, 0.1))
    objects = [main, *(1 + int(k) for k in rng.integers(0, classes, more))]
    if rng.random() < 0.3:
        objects.append(0)
    rng.shuffle(objects)
    return objects


# Noise and color


@functools.lru_cache(maxsize=32)
def _interpolation(size: int, cells: int) -> Array:
    """Matrix [size, cells + 1] that interpolates a grid's values smoothly along one axis."""
    position = (np.arange(size) + 0.5) * (cells / size)
    left = np.floor(position).astype(int)
    t = position - left
    t = t * t * (3 - 2 * t)
    matrix = np.zeros((size, cells + 1), np.float32)
    rows = np.arange(size)
    matrix[rows, left] = 1 - t
    matrix[rows, left + 1] = t
    matrix.setflags(write=False)  # shared by all callers of the cache
    return matrix


def _noise(size: int, cells: int, channels: int, rng: np.random.Generator) -> Array:
    """Smooth noise [channels, size, size] of about unit variance, with `cells` bumps along a side."""
    grid = rng.standard_normal((channels, cells + 1, cells + 1), dtype=np.float32)
    matrix = _interpolation(size, cells)
    noise: Array = np.matmul(np.matmul(matrix, grid), matrix.T)
    return noise


def _random_color(rng: np.random.Generator) -> Array:
    """An RGB color [3, 1, 1] in [0, 1]: any hue, from grey to half saturated, neither black nor white."""
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (rng.random() - np.arange(3) / 3))
    saturation, value = rng.uniform(0, 0.5), rng.uniform(0.2, 0.95)
    return (value * (1 - saturation * (1 - wheel))).astype(np.float32).reshape(3, 1, 1)


def _color_pair(rng: np.random.Generator) -> tuple[Array, Array]:
    """A dark and a light color of any hues: colors tell nothing about the class."""
    hue = rng.random(2)
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (hue[:, None] - np.arange(3) / 3))
    saturation = rng.uniform((0.3, 0.3), (0.9, 0.9))[:, None]
    value = rng.uniform((0.1, 0.7), (0.4, 1))[:, None]
    dark, light = (value * (1 - saturation * (1 - wheel))).astype(np.float32).reshape(2, 3, 1, 1)
    return dark, light


def _background(size: int, rng: np.random.Generator) -> Array:
    """A field of three colors that flow into one another, under noise of falling strength at four scales."""
    weights = np.exp(1.2 * _noise(size, int(rng.integers(1, 4)), 3, rng))
    weights /= weights.sum(axis=0)
    colors = np.concatenate([_random_color(rng) for _ in range(3)], axis=1)[..., 0]
    image = (colors @ weights.reshape(3, -1)).reshape(3, size, size)
    roughness = rng.uniform(0.02, 0.1)
    tint = (1 + 0.5 * rng.standard_normal((3, 1, 1))).astype(np.float32)
    for octave, cells in enumerate((6, 12, 24, 48)):
        image += np.float32(roughness * 0.75**octave) * tint * _noise(size, cells, 1, rng)
    return image


# Outlines: signed distance to an object's edge in units, negative inside


def _place(others: list[Array], margin: float, rng: np.random.Generator) -> Array:
    """Center (x, y) of an object: the best of three guesses at keeping clear of the others.

    Objects still overlap often, but few are hidden but for a sliver that nobody could name.
    """
    guesses = rng.uniform(margin, UNITS - margin, (3, 2)).astype(np.float32)
    if not others:
        return guesses[0]
    gaps = np.linalg.norm(guesses[:, None] - np.stack(others), axis=-1).min(axis=1)
    return guesses[gaps.argmax()]


def _outline(x: Array, y: Array, radii: tuple[float, float], rng: np.random.Generator) -> Array:
    """Signed distance [size, size] (good near the edge) of a random shape around (0, 0)."""
    radius = rng.uniform(*radii)
    kind = rng.integers(5)
    u, v = _rotate(x, y, rng.uniform(0, 2 * np.pi))
    v = v * np.float32(rng.uniform(1, 1.6))
    if kind == 0:  # box with rounded corners
        corner = rng.uniform(0.05, 0.4) * radius
        dx, dy = np.abs(u) - (radius * 0.85 - corner), np.abs(v) - (radius * 0.85 - corner)
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        field = outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(corner)
    elif kind == 1:  # convex polygon
        sides = rng.integers(3, 8)
        angles = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * (2 * np.pi / sides)
        reach = radius * rng.uniform(0.6, 0.95, sides)
        field = np.full_like(u, -np.inf)
        for a, r in zip(angles, reach, strict=True):
            along, _ = _rotate(u, v, a)
            np.maximum(field, along - np.float32(r), out=field)
    else:  # ellipse, blob or star: a radius that depends on the direction
        theta = np.arctan2(v, u)
        reach_at = np.float32(radius) * np.ones_like(theta)
        if kind == 3:
            for k in (2, 3, 4, 5):
                swing, phase = rng.uniform(0, 0.5 / k) * radius, rng.uniform(0, 2 * np.pi)
                reach_at += np.float32(swing) * np.cos(np.float32(k) * theta + np.float32(phase))
        elif kind == 4:
            tips, depth = rng.integers(4, 8), rng.uniform(0.2, 0.4) * radius
            turn = theta * np.float32(tips / (2 * np.pi))
            reach_at -= np.float32(2 * depth) * np.abs(_fraction(turn) - 0.5)
        field = np.hypot(u, v) - reach_at
    # Dividing by the slope turns any of these fields into a distance near its edge.
    slope_y, slope_x = np.gradient(field, np.float32(UNITS / field.shape[0]))
    return field / np.maximum(np.hypot(slope_x, slope_y), np.float32(0.5))


def _rotate(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _fraction(x: Array) -> Array:
    return x - np.floor(x)


def _soft_step(x: Array, width: float) -> Array:
    """0 below, 1 above, a ramp of `width` around 0: the antialiased edge of the region x > 0."""
    return np.clip(0.5 + x / np.float32(width), 0, 1)


# Patterns: (u, v) in units, period, width of soft edges, randomness -> mix of two colors in [0, 1]


def _bands(phase: Array, period: float, soft: float, duty: float) -> Array:
    """Bands of equal width across `phase` (units); `duty` is the share of the second color."""
    inside = duty / 2 - np.abs(_fraction(phase / np.float32(period)) - 0.5)
    return _soft_step(inside * np.float32(period), soft)


def _stripes(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    return _bands(u, period, soft, rng.uniform(0.4, 0.6))


def _checks(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    a = _bands(u, 1.2 * period, soft, 0.5)
    b = _bands(v, 1.2 * period * rng.uniform(0.85, 1.2), soft, 0.5)
    return a + b - 2 * a * b


def _dots(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    row_height = period * rng.uniform(0.85, 1)
    row = np.floor(v / np.float32(row_height))
    # Every second row is shifted, by anything from a square to a hexagonal arrangement.
    shift = np.float32(rng.uniform(0, 0.5)) * (row % 2)
    du = (_fraction(u / np.float32(period) + shift) - 0.5) * np.float32(period)
    dv = (_fraction(v / np.float32(row_height)) - 0.5) * np.float32(row_height)
    return _soft_step(np.float32(rng.uniform(0.26, 0.38) * period) - np.hypot(du, dv), soft)


def _blotches(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    waves = 9
    length = 1.3 * period / rng.uniform(0.75, 1.25, waves)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    field = np.zeros_like(u)
    for k in range(waves):
        ku, kv = 2 * np.pi / length[k] * np.cos(angle[k]), 2 * np.pi / length[k] * np.sin(angle[k])
        field += np.cos(np.float32(ku) * u + np.float32(kv) * v + np.float32(phase[k]))
    # The field's slope at its zeros is about its deviation times the wave number: this makes it a length.
    field *= np.float32(1.3 * period / (2 * np.pi * np.sqrt(waves / 2)))
    return _soft_step(field - np.float32(rng.uniform(-0.06, 0.06) * period), soft)


def _rings(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    shift_u, shift_v = rng.uniform(-6, 6, 2)
    radius = np.hypot(u - np.float32(shift_u), (v - np.float32(shift_v)) * np.float32(rng.uniform(1, 1.4)))
    radius = radius + np.float32(0.12 * period) * _noise(len(u), 8, 1, rng)[0]
    return _bands(radius, period, soft, rng.uniform(0.4, 0.6))


def _bricks(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    height, length = 0.75 * period, period * rng.uniform(1.4, 1.9)
    row = np.floor(v / np.float32(height))
    along = u / np.float32(length) + 0.5 * (row % 2)
    column = np.floor(along)
    to_row = (0.5 - np.abs(v / np.float32(height) - row - 0.5)) * np.float32(height)
    to_column = (0.5 - np.abs(along - column - 0.5)) * np.float32(length)
    inside = _soft_step(np.minimum(to_row, to_column) - np.float32(0.09 * period), soft)
    tones = rng.uniform(0.65, 1, 64).astype(np.float32)  # fired unevenly
    return inside * tones[(row * 11 + column * 5).astype(int) % 64]


def _zigzag(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    tooth = np.float32(period * rng.uniform(1.4, 1.9))
    rise = (np.abs(_fraction(v / tooth) - 0.5) - 0.25) * 2 * np.float32(period)
    return _bands(u + rise, period, soft, rng.uniform(0.4, 0.6))


def _grid(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    duty = rng.uniform(0.22, 0.34)
    return np.maximum(_bands(u, period, soft, duty), _bands(v, period, soft, duty))


def _triangles(u: Array, v: Array, period: float, soft: float, rng: np.random.Generator) -> Array:
    side = np.float32(1.3 * period)
    above = _fraction(u / side) + _fraction(v / side * np.float32(rng.uniform(0.85, 1.15))) - 1
    return _soft_step(above * side, soft)


_PATTERNS: dict[str, Pattern] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "blotches": _blotches,
    "rings": _rings,
    "bricks": _bricks,
    "zigzag": _zigzag,
    "grid": _grid,
    "triangles": _triangles,
}
# What a close-up may show: a plain object, the patterns of the classes, and others.
CLOSEUP_NAMES: tuple[str, ...] = ("plain", *_PATTERNS)


# Surfaces and light


def _textured_surface(x: Array, y: Array, pattern: Pattern, pixel: float, rng: np.random.Generator) -> Array:
    """RGB [3, size, size]: a pattern in two colors, turned, shifted and slightly bent."""
    size = len(x)
    period = rng.uniform(8, 12)
    center = rng.uniform(0.25 * UNITS, 0.75 * UNITS, 2).astype(np.float32)
    u, v = _rotate(x - center[0], y - center[1], rng.uniform(0, 2 * np.pi))
    bend = _noise(size, 3, 2, rng) * np.float32(rng.uniform(0, 1.5))
    mix = pattern(u + bend[0], v + bend[1], period, max(1.0, pixel), rng)
    mix = mix * np.float32(rng.uniform(0.7, 1))  # faded patterns too
    first, second = _color_pair(rng)
    if rng.random() < 0.5:
        first, second = second, first
    grain = _noise(size, 24, 1, rng) * np.float32(rng.uniform(0, 0.05))
    return first + mix * (second - first) + grain


def _plain_surface(size: int, rng: np.random.Generator) -> Array:
    """RGB [3, size, size]: one color with cloudy variation."""
    clouds = _noise(size, 8, 1, rng)
    clouds += _noise(size, 32, 1, rng) * np.float32(0.5)
    return _random_color(rng) + clouds * np.float32(rng.uniform(0.01, 0.08))


def _relief(distance: Array, light: Array, pixel: float, rng: np.random.Generator) -> Array:
    """Brightness factor [size, size] of an object whose rim slopes away from the viewer."""
    slope_y, slope_x = np.gradient(distance, np.float32(pixel))
    facing = np.clip(slope_x * light[0] + slope_y * light[1], -1, 1)
    rim = np.clip(1 + distance / np.float32(rng.uniform(4, 14)), 0, 1)
    return 1 + np.float32(rng.uniform(0.1, 0.45)) * facing * rim * rim


def _shadow(distance: Array, light: Array, pixel: float, rng: np.random.Generator) -> Array:
    """Darkening in [0, 1) of what lies behind an object, displaced away from the light."""
    reach = rng.uniform(0, 5) / pixel
    shift = (-int(np.rint(light[1] * reach)), -int(np.rint(light[0] * reach)))
    padded = np.pad(distance, [(max(s, 0), max(-s, 0)) for s in shift], mode="edge")
    rows, columns = (slice(max(-s, 0), max(-s, 0) + distance.shape[0]) for s in shift)
    return np.float32(rng.uniform(0, 0.55)) * _soft_step(-padded[rows, columns], rng.uniform(2, 6))


def _illumination(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Array:
    """Brightness factor [size, size]: falls off away from the light and towards the corners."""
    right, down = x / np.float32(UNITS / 2) - 1, y / np.float32(UNITS / 2) - 1
    slope = np.float32(rng.uniform(0, 0.3)) * (right * light[0] + down * light[1])
    return (1 + slope) * (1 - np.float32(rng.uniform(0, 0.2)) * (right * right + down * down))


def _haze(image: Array, rng: np.random.Generator) -> Array:
    """Haze over a scene [3, size, size], in light of another color than white."""
    light = rng.uniform(0.6, 1.1, (3, 1, 1)).astype(np.float32)
    thickness = np.float32(rng.uniform(0, 0.6))
    return (image * (1 - thickness) + _random_color(rng) * thickness) * light


def _camera(image: Array, scene: np.random.Generator, pixels: np.random.Generator) -> Array:
    """Slight blur, exposure, white balance and sensor noise."""
    side = np.float32(scene.uniform(0, 0.22))  # share of each neighbor in a three-pixel blur
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    padded = padded[:, 1:-1] * (1 - 2 * side) + side * (padded[:, :-2] + padded[:, 2:])
    image = padded[..., 1:-1] * (1 - 2 * side) + side * (padded[..., :-2] + padded[..., 2:])
    gain = scene.uniform(0.85, 1.15) * scene.uniform(0.93, 1.07, (3, 1, 1))
    noise = pixels.standard_normal(image.shape, dtype=np.float32)
    return image * gain.astype(np.float32) + noise * np.float32(scene.uniform(0.005, 0.02))
