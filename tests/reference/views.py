"""The views that the input pipeline makes, as quantities under the names of `augment.npz`.

A name holds the arguments: `scale:0.75:label` is the label map at scale 0.75. The reference writes the mean
pixel into padding and CutOut at once; here such a pixel is marked as not valid, and normalization makes it 0.
So images are normalized and brought back to pixels before they are compared: `denormalize` makes that 0 the
mean pixel.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import color, geometry
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.losses import image_labels_of
from pseudoseg_tf.nn import model as nn_model
from pseudoseg_tf.trainer import additional_batch, labeled_batch
from tests.tiny import unrounded_view

Array = npt.NDArray[Any]
# The reference's settings are the defaults.
_DATA = DataConfig()
_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
_NEUTRAL = (0.0, 1.0, 1.0, 0.0)
# What the random color changes of `pipeline:*` were held at in set A. No file of a set says so.
_AMOUNTS = (0.25, 1.3, 0.7, 0.12)
_STRONG_TOLERANCE = 0.02

_NUMBER = r"-?[\d.]+(?:e-?\d+)?"
_NETWORK = r"(?P<network>xception_65|resnet_v1_(?:50|101)(?:_beta)?)"
_PAD = r"pad:(?P<fill>127\.5|imagenet):offset_(?P<row>\d+)_(?P<column>\d+)_to_(?P<height>\d+)x(?P<width>\d+)"
_RANGE = r"range:min_(?P<min>\d+)_max_(?P<max>\d+|None)_factor_(?P<factor>\d+|None)"
_CUTOUT = r"cutout:pad_(?P<half>\d+)_center_(?P<row>\d+)_(?P<column>\d+)"
_PIPELINE = (
    r"pipeline:crop(?P<crop>\d+)_scale(?P<scale>\d+)_order(?P<order>[0-3]{4})_"
    r"offset(?P<row>\d+)_(?P<column>\d+)_cut(?P<cut_row>\d+)_(?P<cut_column>\d+)_"
    rf"flip(?P<flip>{_NUMBER}):{_NETWORK}:(?P<kind>strong_weak|labelled)"
)
_PARTS = {"strong_weak": ("image", "label", "strong", "valid"), "labelled": ("image", "label", "valid")}


def is_input(name: str) -> bool:
    """Whether an array is what the others were made from."""
    return re.fullmatch(r"in:(image_u8|label)|cls_label:[^:]+:label", name) is not None


class Views:
    """What this package makes of the inputs in an `augment.npz`.

    Attributes:
      quantities: a function for each array whose name is known.
    """

    def __init__(self, theirs: Mapping[str, Array]) -> None:
        """Computes nothing yet.

        Args:
          theirs: the arrays of the file. Read are the inputs, sizes of padded images, and one strong image.
        """
        self._theirs = theirs
        self.quantities: dict[str, Callable[[], Any]] = {}
        for name in theirs:
            for pattern, compute in _FAMILIES.items():
                if match := re.fullmatch(pattern, name):
                    # Each is wanted for its values and for its shape.
                    self.quantities[name] = functools.cache(functools.partial(compute, self, match))
                    break

    def note(self, name: str) -> str:
        """What to know about a compared array; often nothing."""
        match = re.fullmatch(rf"{_PIPELINE}:strong", name)
        if not match:
            return ""
        amounts, source = self._amounts
        if not self._visible(match):
            return "CutOut covers it, so it says nothing about jitter"
        # The reference jitters the scaled image and then crops it. Training here jitters the crop, whose
        # mean, about which contrast turns, is another. Compared are the operations: jittered before the crop.
        whole, crop = (self._strong(match, amounts, before) for before in (True, False))
        shown = ", ".join(f"{amount:.4g}" for amount in amounts)
        difference = np.max(np.abs(whole - crop))
        return f"jitter ({shown}: {source}) before the crop; as in training, after it: {difference:.2g} off"

    def facts(self, meta: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
        """Yields name, whether it holds here, and a note, for each entry of `augment_meta.json`."""
        for name, expected in meta.items():
            found: Any
            if match := re.fullmatch(r"order of the draws: (strong_weak|labelled)", name):
                yield name, self._is_order_of_draws(match[1], expected), "of one of the pipeline:* cases"
                continue
            if match := re.fullmatch(rf"scale ({_NUMBER})", name):
                found = [self._shape(f"scale:{match[1]}:{part}") for part in ("image", "label")]
            elif re.fullmatch(_RANGE, name):
                found = self._shape(f"{name}:image")
            elif match := re.fullmatch(_CUTOUT, name):
                box = self._box(match)
                found = [int(edge) for side in np.nonzero(box) for edge in (side.min(), side.max() + 1)]
            elif match := re.fullmatch(_PIPELINE, name):
                found = [self._shape(f"{name}:{part}") for part in _PARTS[match["kind"]]]
            else:
                yield name, False, "a quantity that this comparison does not know"
                continue
            yield name, found == expected, "" if found == expected else f"ours {found}, theirs {expected}"

    def _shape(self, name: str) -> list[int] | None:
        return list(np.shape(self.quantities[name]())) if name in self.quantities else None

    def _is_order_of_draws(self, kind: str, draws: Sequence[Sequence[str]]) -> bool:
        """Whether the draws, in their order, give a case its name; ours are one draw of many numbers."""
        found = [(draw[0], json.loads(draw[-1])) for draw in draws]
        if kind == "strong_weak":
            # The second draw decides whether to jitter, and always does.
            decision = found.pop(1)
            if decision[0] != "uniform":
                return False
        for name in self.quantities:
            match = re.fullmatch(rf"{_PIPELINE}:image", name)
            if not match or match["kind"] != kind:
                continue
            wanted = [
                ("shuffle", int(match["scale"])),
                ("shuffle", [int(number) for number in match["order"]]),
                ("uniform", int(match["row"])),
                ("uniform", int(match["column"])),
                ("uniform", int(match["cut_row"])),
                ("uniform", int(match["cut_column"])),
                ("uniform", float(match["flip"])),
            ]
            if kind == "labelled":
                del wanted[4:6], wanted[1]
            if found == wanted:
                return True
        return False

    @property
    def _example(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Image uint8 [h, w, 3] and labels uint8 [h, w]."""
        try:
            return tf.constant(self._theirs["in:image_u8"]), tf.constant(self._theirs["in:label"][..., 0])
        except KeyError as error:
            raise UserError(f"augment.npz: has no array {error}, from which the others are made") from error

    def _draws(
        self, scale: int = 2, offset: Sequence[int] = (0, 0), flip: float = 1.0, crop: int = 1
    ) -> geometry.GeometryDraws:
        """The draws of `geometry_draws` where chance gives these: by default, the whole image at scale 1."""
        factors = geometry.scale_factors(_DATA.min_scale, _DATA.max_scale, _DATA.scale_step)
        image_size = tf.shape(self._example[1])
        choices = np.maximum(geometry.scaled_size(image_size, factors[scale]) - crop, 0) + 1
        uniform = [(scale + 0.5) / len(factors), *((np.array(offset) + 0.5) / choices), flip]
        with mock.patch.object(tf.random, "stateless_uniform", lambda *_: tf.constant(uniform, tf.float32)):
            return geometry.geometry_draws(
                tf.zeros([2], tf.int64),
                image_size,
                (crop, crop),
                _DATA.min_scale,
                _DATA.max_scale,
                _DATA.scale_step,
            )

    def _view(
        self, draws: geometry.GeometryDraws, crop: tuple[int, int], image: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """A batch of 1 of what `weak_view` returns, but with the image not rounded."""
        own_image, labels = self._example
        sampled = tf.constant(unrounded_view(own_image if image is None else image, draws, crop))
        rounded, labels, valid = geometry.weak_view(own_image, labels, draws, crop)
        if image is None:
            # Half a level, and what float32 cannot hold.
            assert np.max(np.abs(tf.cast(rounded, tf.float32) - sampled)) < 0.501
        view = {"image": sampled, "labels": labels, "valid": valid}
        return {name: part[tf.newaxis] for name, part in view.items()}

    def _pad(self, match: re.Match[str]) -> Any:
        """Above and to the left too, where this package never pads: by turning the picture round."""
        row, column, height, width = (int(match[name]) for name in ("row", "column", "height", "width"))
        image, labels = self._example
        outside = tf.zeros_like(labels)
        above = (labels.shape[0] + row, labels.shape[1] + column)
        for canvas, step in ((above, -1), ((height, width), 1)):
            image, outside = geometry.evaluation_view(image[::step, ::step], outside[::step, ::step], canvas)
            image, outside = image[::step, ::step], outside[::step, ::step]
        return _pixels("xception_65" if match["fill"] == "127.5" else "resnet_v1_50", image, outside == 0)

    def _flip(self, match: re.Match[str]) -> Any:
        draws = self._draws(flip=float(match["draw"]))
        if match["part"] == "is_flipped":
            return draws.flip
        view = self._view(draws, tuple(self._example[1].shape))
        return view["image"][0] if match["part"] == "image" else view["labels"][0, ..., tf.newaxis]

    def _scale_set(self, match: re.Match[str]) -> Any:
        del match
        return geometry.scale_factors(_DATA.min_scale, _DATA.max_scale, _DATA.scale_step)

    def _scale(self, match: re.Match[str]) -> Any:
        size = geometry.scaled_size(tf.shape(self._example[1]), tf.constant(float(match["scale"])))
        draws = geometry.GeometryDraws(size, tf.zeros([2], tf.int32), tf.constant(False))
        view = self._view(draws, tuple(size.numpy()))
        return view["image"][0] if match["part"] == "image" else view["labels"][0, ..., tf.newaxis]

    def _range(self, match: re.Match[str]) -> Any:
        limits = (0 if match[name] == "None" else int(match[name]) for name in ("min", "max", "factor"))
        image, labels = geometry.resize_to_range(*self._example, *limits)
        return image if match["part"] == "image" else labels[..., tf.newaxis]

    def _box(self, match: re.Match[str]) -> Array:
        center = tf.constant([[int(match["row"]), int(match["column"])]])
        return color.cutout_box(center, tf.shape(self._example[1]), int(match["half"]))[0].numpy()

    def _cutout(self, match: re.Match[str]) -> Any:
        """By the strong view itself; the image there has whole numbers, so that 127.5 is the fill alone."""
        image, labels = self._example
        draws = color.StrongDraws(
            tf.constant([_NEUTRAL]),
            tf.constant([[0, 1, 2, 3]]),
            tf.constant([[int(match["row"]), int(match["column"])]]),
        )
        images = tf.cast(image, tf.float32)[tf.newaxis]
        strong, valid = color.strong_view(images, tf.ones_like(labels)[tf.newaxis], draws, int(match["half"]))
        return {
            "valid": valid[0, ..., tf.newaxis],
            "label": tf.where(valid[0] > 0, labels, 255)[..., tf.newaxis],
            "image_is_fill": tf.reduce_all(strong[0] == 127.5, -1),
        }[match["part"]]

    def _colour(self, match: re.Match[str]) -> Any:
        """In [0, 1], as the arrays are."""
        operation = _OPERATIONS.index(match["operation"])
        jitter = list(_NEUTRAL)
        jitter[operation] = float(match["amount"])
        return _jitter(self._example[0], jitter, (0, 1, 2, 3)) / 255

    def _jitter(self, match: re.Match[str]) -> Any:
        """In [0, 1], as the arrays are."""
        amounts = [float(match[name]) for name in "bcsh"]
        return _jitter(self._example[0], amounts, tuple(map(int, match["order"]))) / 255

    def _pipeline(self, match: re.Match[str]) -> Any:
        part, model = match["part"], _model(match["network"])
        if part == "strong":
            return self._strong(match, self._amounts[0], before_the_crop=True)
        view = self._case(match)
        batch: Any
        if match["kind"] == "labelled":
            batch = labeled_batch(model, view)
            image, labels = batch["image"], view["labels"]
        else:
            batch = additional_batch(model, view | self._strong_draws(match, _NEUTRAL), _DATA.cutout)
            image, labels = batch["weak"], tf.where(batch["valid"] > 0, view["labels"], 255)
        if part == "image":
            return model.denormalize(image)[0]
        return (labels if part == "label" else batch["valid"])[0, ..., tf.newaxis]

    def _case(self, match: re.Match[str], image: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """The crop of a case, image-level labels not given; ``image``: cut out of this, scaled before."""
        crop = int(match["crop"])
        offset = (int(match["row"]), int(match["column"]))
        draws = self._draws(int(match["scale"]), offset, float(match["flip"]), crop)
        return self._view(draws, (crop, crop), image) | {"image_labels": tf.fill([1, 20], -1.0)}

    def _strong_draws(self, match: re.Match[str], amounts: Sequence[float]) -> dict[str, tf.Tensor]:
        """The reference mirrors after CutOut, this package before: the box is about the mirrored center."""
        crop, column = int(match["crop"]), int(match["cut_column"])
        flipped = bool(self._draws(flip=float(match["flip"])).flip)
        return {
            "jitter": tf.constant([amounts], tf.float32),
            "order": tf.constant([[int(number) for number in match["order"]]]),
            "cutout_center": tf.constant([[int(match["cut_row"]), crop - column if flipped else column]]),
        }

    def _strong(self, match: re.Match[str], amounts: Sequence[float], before_the_crop: bool) -> Array:
        """The strong view of a case as pixels; jittered before the crop, as in the reference, or after it."""
        model = _model(match["network"])
        if before_the_crop:
            size = self._draws(int(match["scale"])).scaled_size
            whole = geometry.GeometryDraws(size, tf.zeros([2], tf.int32), tf.constant(False))
            scaled = tf.constant(unrounded_view(self._example[0], whole, tuple(size.numpy())))
            jittered = _jitter(scaled, amounts, tuple(map(int, match["order"])))
            view = self._case(match, jittered)
            draws = self._strong_draws(match, _NEUTRAL)
        else:
            view = self._case(match)
            draws = self._strong_draws(match, amounts)
        return model.denormalize(additional_batch(model, view | draws, _DATA.cutout)["strong"])[0].numpy()

    @functools.cached_property
    def _amounts(self) -> tuple[tuple[float, ...], str]:
        """Amounts of brightness, contrast, saturation and hue of the `pipeline:*` cases, and where from."""
        matches = (re.fullmatch(rf"{_PIPELINE}:strong", name) for name in self._theirs)
        # Where CutOut leaves most of the image; the others are a check.
        match = max(filter(None, matches), key=self._visible)
        target = self._theirs[match.string]

        def error(amounts: Sequence[float]) -> Array:
            return (self._strong(match, amounts, before_the_crop=True) - target).ravel()

        if np.max(np.abs(error(_AMOUNTS))) <= _STRONG_TOLERANCE:
            return _AMOUNTS, "of set A"
        from scipy import optimize

        low, high = (-0.5, 0.5, 0.5, -0.25), (0.5, 1.5, 1.5, 0.25)
        grid = itertools.product(*(np.linspace(a, b, 7)[1::2] for a, b in zip(low, high, strict=True)))
        starts = sorted(grid, key=lambda amounts: float(np.sum(error(amounts) ** 2)))[:5]
        best = None
        for start in starts:
            fit = optimize.least_squares(error, start, bounds=(low, high), diff_step=1e-3, x_scale=0.1)
            best = fit if best is None or fit.cost < best.cost else best
            if np.max(np.abs(fit.fun)) <= _STRONG_TOLERANCE:
                break
        return tuple(map(float, best.x)), "fitted to what CutOut leaves of these images"

    def _visible(self, match: re.Match[str]) -> int:
        """Number of pixels of a strong image that neither padding nor CutOut fills."""
        examples = self._case(match) | self._strong_draws(match, _NEUTRAL)
        return int(np.sum(additional_batch(_model(match["network"]), examples, _DATA.cutout)["valid"]))

    def _image_labels(self, match: re.Match[str]) -> Any:
        labels = self._theirs.get(f"{match.string}:label")
        if labels is None:
            raise UserError(f"augment.npz: has no array {match.string}:label, from which the other is made")
        classes = len(self._theirs[match.string]) + 1
        return image_labels_of(tf.constant(labels[np.newaxis, ..., 0]), classes)[0]

    def _evaluation(self, match: re.Match[str]) -> Any:
        """Padded to the canvas, which no name says: to the size of the array."""
        image, labels = self._example
        canvas = self._theirs[match.string].shape[:2]
        _, outside = geometry.evaluation_view(image, tf.zeros_like(labels), canvas)
        image, labels = geometry.evaluation_view(image, labels, canvas)
        if "network" in match.groupdict():
            return _pixels(match["network"], image, outside == 0)
        return (labels if match["part"] == "label" else tf.cast(outside == 0, tf.uint8))[..., tf.newaxis]


# The first pattern that matches a whole name tells how its array is made.
_FAMILIES: dict[str, Callable[[Views, re.Match[str]], Any]] = {
    _PAD: Views._pad,
    r"pad:(?P<part>label)_255": Views._evaluation,
    rf"flip:draw_(?P<draw>{_NUMBER}):(?P<part>image|label|is_flipped)": Views._flip,
    r"scale:set": Views._scale_set,
    rf"scale:(?P<scale>{_NUMBER}):(?P<part>image|label)": Views._scale,
    rf"{_RANGE}:(?P<part>image|label)": Views._range,
    rf"{_CUTOUT}:(?P<part>valid|label|image_is_fill)": Views._cutout,
    rf"colour:(?P<operation>{'|'.join(_OPERATIONS)}):(?P<amount>{_NUMBER})": Views._colour,
    r"jitter:order_(?P<order>[0-3]{4}):"
    + "_".join(f"{letter}(?P<{letter}>{_NUMBER})" for letter in "bcsh"): Views._jitter,
    rf"{_PIPELINE}:(?P<part>image|label|strong|valid)": Views._pipeline,
    r"cls_label:[^:]+": Views._image_labels,
    rf"eval:{_NETWORK}:image": Views._evaluation,
    r"eval:(?P<part>label|valid)": Views._evaluation,
}


@functools.cache
def _model(network: str) -> nn_model.PseudoSegModel:
    """For its normalization alone, so without variables, which would take seconds."""
    with mock.patch.object(nn_model, "_make_variables"):
        return nn_model.build_model(21, network)  # type: ignore[arg-type]


def _pixels(network: str, image: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """An image [H, W, 3] as the network sees it, in [0, 255]."""
    model = _model(network)
    images = tf.cast(image, tf.float32)[tf.newaxis]
    return model.denormalize(model.normalize(images, valid[tf.newaxis]))[0]


def _jitter(image: tf.Tensor, amounts: Sequence[float], order: Sequence[int]) -> tf.Tensor:
    """`color_jitter` of a whole image, in [0, 255]."""
    images = tf.cast(image, tf.float32)[tf.newaxis] / 255
    valid = tf.ones(images.shape[:3])
    return (
        255 * color.color_jitter(images, valid, tf.constant([amounts], tf.float32), tf.constant([order]))[0]
    )
