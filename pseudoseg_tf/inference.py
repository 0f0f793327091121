"""From images to labels and probabilities: the one computation behind evaluation, export and prediction."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_image, read_encoded
from pseudoseg_tf.data.geometry import padded_size, range_size, resize_image
from pseudoseg_tf.data.specs import DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.exported import Serve, fingerprint, load_exported
from pseudoseg_tf.files import read_json
from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.nn.pyramid import height_and_width, pyramid_logits, scaled_size
from pseudoseg_tf.nn.sliding_window import window_probabilities
from pseudoseg_tf.visualize import overlay


def predict(
    model: PseudoSegModel,
    images: tf.Tensor,
    minimum: tuple[int, int],
    sizes: tf.Tensor | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] = (0, 0),
    overlap: float = 0.25,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Segments a batch of images of one size, each at its own resolution.

    The images are padded at the bottom and right to the canvas of ``geometry.padded_size``; padding is
    zero after normalization, whatever it held before. Decoder logits are resized to the canvas (bilinear,
    aligned corners) before the softmax, as in the reference, and the padding is cut off again.

    With several scales, or mirrored too, the probabilities are the mean of the softmaxes of all passes. (The
    reference returns a second softmax, of that mean: apply ``tf.nn.softmax`` to compare. The labels are the
    same.) Each scale sees the padded canvas resized, as in the reference, see ``pyramid_logits``. Each image is
    mirrored within its own width, so that a mirrored image has exactly the mirrored probabilities; the
    reference mirrors the canvas, which is the same for an image that fills it.

    With a window, each pass predicts the canvas, resized to its scale, window by window, see
    ``window_probabilities``; the canvas is as large as the window at least. The probabilities of another scale
    than 1 are resized to the canvas (bilinear, aligned corners).

    The time is that of one pass times the sum of the squared scales, times two if mirrored; with windows about
    1 / (1 - overlap)^2 times that.

    Args:
      model: called in inference mode.
      images: uint8 or float32 [B, H, W, 3] in [0, 255].
      minimum: smallest canvas (height, width); ``data.eval_size``.
      sizes: int32 [B, 2]: height and width of each image where ``images`` already holds padding. None: the
        images fill [H, W].
      scales: factors at which the canvas is predicted, each greater than 0.
      flip: predict the images mirrored left to right, too.
      window: height and width of the sliding window, each 16k+1; (0, 0): the whole canvas at once.
      overlap: of neighboring windows, as part of a window.

    Returns:
      labels uint8 [B, H, W] and probabilities float32 [B, H, W, C].

    Raises:
      ValueError: there is no scale, or one is not above 0.
    """
    if not scales:
        raise ValueError("scales must be one or more numbers greater than 0, found none")
    height, width = height_and_width(images)
    canvas = padded_size(height, max(minimum[0], window[0])), padded_size(width, max(minimum[1], window[1]))
    border = [[0, 0], [0, canvas[0] - height], [0, canvas[1] - width], [0, 0]]
    if sizes is None:
        sizes = tf.tile([[height, width]], [tf.shape(images)[0], 1])
    valid = inside(sizes, canvas)
    padded = tf.pad(tf.cast(images, tf.float32), border)
    normalized = model.normalize(padded, valid)

    def softmax(canvases: tf.Tensor, scale: float) -> tf.Tensor:
        if not any(window):
            logits = resize_align_corners(pyramid_logits(model, canvases, [scale]), canvas)
            return tf.nn.softmax(logits[:, :height, :width])
        if scale == 1:
            return window_probabilities(model, canvases, window, overlap)[:, :height, :width]
        scaled = resize_align_corners(canvases, tuple(scaled_size(side, scale) for side in canvas))
        mean = window_probabilities(model, scaled, window, overlap)
        return resize_align_corners(mean, canvas)[:, :height, :width]

    def mirror(x: tf.Tensor) -> tf.Tensor:
        return tf.reverse_sequence(x, sizes[:, 1], seq_axis=2, batch_axis=0)

    # One pass waits for the other: a graph would else run them at once and hold the activations of all.
    total = tf.constant(0.0)
    for scale in scales:
        with tf.control_dependencies([total]):
            once = softmax(normalized, scale)
        if flip:
            with tf.control_dependencies([once]):
                # Within its scale first: the sum of the two is the same to the bit for the mirrored image.
                once += mirror(softmax(mirror(normalized), scale))
        total += once
    # A graph would turn a division into this product; so it is the same outside of one.
    probabilities = total * (1.0 / (len(scales) * (2 if flip else 1)))
    return labels_of(probabilities), probabilities


def inside(sizes: tf.Tensor, canvas: tuple[int, int] | tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Which pixels of a canvas (height, width) belong to images of ``sizes``, int32 [B, 2]: bool [B, H, W]."""
    rows = tf.sequence_mask(sizes[:, 0], canvas[0])
    columns = tf.sequence_mask(sizes[:, 1], canvas[1])
    return rows[:, :, tf.newaxis] & columns[:, tf.newaxis]


def predict_as_configured(
    model: PseudoSegModel, images: tf.Tensor, data: DataConfig, sizes: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """``predict`` with the canvas, scales, mirrored passes and windows of a configuration."""
    return predict(
        model,
        images,
        data.eval_size,
        sizes,
        scales=data.eval_scales,
        flip=data.eval_flip,
        window=data.eval_window,
        overlap=data.eval_overlap,
    )


def predict_at_own_size(
    model: PseudoSegModel, images: tf.Tensor, data: DataConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Segments a batch of images of one size as evaluation does, with the answer at the images' own size.

    With ``data.min_resize`` an image is resized before, as in evaluation, which compares at that size; here the
    probabilities are then resized back (bilinear, aligned corners).

    Args:
      model: called in inference mode.
      images: uint8 [B, H, W, 3].
      data: range of sizes, canvas, scales, flip and windows.

    Returns:
      labels uint8 [B, H, W] and probabilities float32 [B, H, W, C].
    """
    if not data.min_resize:
        return predict_as_configured(model, images, data)
    own_size = tf.shape(images)[1:3]
    resized = resize_image(images, range_size(own_size, data.min_resize, data.max_resize, data.resize_factor))
    _, probabilities = predict_as_configured(model, resized, data)
    probabilities = resize_image(probabilities, own_size)
    return labels_of(probabilities), probabilities


def labels_of(probabilities: tf.Tensor) -> tf.Tensor:
    """The most probable class of each pixel: [B, H, W, C] -> uint8 [B, H, W]."""
    return tf.cast(tf.argmax(probabilities, axis=-1, output_type=tf.int32), tf.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says about an image, or about a batch of images with a leading dimension B.

    Attributes:
      image: uint8 [H, W, 3], what was asked about.
      labels: uint8 [H, W], class ids.
      probabilities: float32 [H, W, C], summing to 1 over the classes.
      info: the classes.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    info: DatasetInfo

    def split(self) -> list[Prediction]:
        """What is said about each image of a batch."""
        each = zip(self.image, self.labels, self.probabilities, strict=True)
        return [Prediction(*parts, self.info) for parts in each]

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """Probability of each pixel's class: float32 [H, W]."""
        return self.probabilities.max(axis=-1)

    @property
    def overlay(self) -> npt.NDArray[np.uint8]:
        """The image tinted with the colors of its classes: uint8 [H, W, 3]."""
        return overlay(self.image, self.labels, self.info.palette, background=self.info.has_background)


class Predictor:
    """A trained or exported model, ready for images of any size (TFLite: up to the size it was exported for).

    Attributes:
      info: the classes.
      fingerprint: SHA-256 of the model and of how it predicts.

    Example:
      predictor = Predictor("runs/shapes", checkpoint="best")
      prediction = predictor("picture.jpg")
      prediction.labels, prediction.confidence, prediction.overlay
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        checkpoint: str | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        window: tuple[int, int] | None = None,
        overlap: float | None = None,
    ) -> None:
        """Loads a model. What follows its path is for run directories: an export predicts as it was made to.

        Args:
          path: a run directory, or what ``export`` wrote: a SavedModel's directory, a .tflite or .onnx file.
          checkpoint: "last", "best" or the path of a checkpoint; None: "best".
          scales: in place of the run's ``data.eval_scales``.
          flip: in place of the run's ``data.eval_flip``.
          window: in place of the run's ``data.eval_window``; (0, 0): whole images.
          overlap: in place of the run's ``data.eval_overlap``.

        Raises:
          UserError: it is none of these, or damaged; or an export is given with values for a run.
        """
        how = {"scales": scales, "flip": flip, "window": window, "overlap": overlap}
        if (Path(path) / "config.json").is_file():
            self.info, self._serve, self.fingerprint = _load_run(os.fspath(path), checkpoint or "best", how)
            return
        given = [name for name, value in {"checkpoint": checkpoint, **how}.items() if value is not None]
        if given:
            raise UserError(
                f"{given[0]}: {os.fspath(path)} is no run directory, and an export predicts as it was made to; "
                "leave it out, or name the run"
            )
        exported = load_exported(path)
        self.info, self._serve, self.fingerprint = exported.info, exported.serve, exported.fingerprint

    def __call__(self, image: npt.NDArray[np.uint8] | str | os.PathLike[str]) -> Prediction:
        """Segments one image or a batch.

        Args:
          image: uint8 RGB [H, W, 3], or [B, H, W, 3], or the path of a JPEG or PNG file.

        Raises:
          TypeError: the pixels are not uint8.
          ValueError: the shape is another, or empty.
          UserError: the file is not a readable image, or it is too large for a TFLite model.
        """
        if isinstance(image, (str, os.PathLike)):
            image = read_image(image)
        image = np.asarray(image)
        if image.dtype != np.uint8:
            raise TypeError(f"an image must hold uint8 values from 0 to 255, found {image.dtype}")
        if image.ndim not in (3, 4) or image.shape[-1] != 3 or 0 in image.shape:
            raise ValueError(
                f"an image must have the shape [height, width, 3], a batch [images, height, width, 3], "
                f"found {list(image.shape)}"
            )
        if image.ndim == 4:
            return Prediction(image, *self._serve(image), self.info)
        labels, probabilities = self._serve(image[np.newaxis])
        return Prediction(image, labels[0], probabilities[0], self.info)


def _load_run(run_dir: str, checkpoint: str, how: Mapping[str, Any]) -> tuple[DatasetInfo, Serve, str]:
    """Classes, prediction and fingerprint of a run's checkpoint; ``how`` as for ``load_for_evaluation``."""
    config = config_io.load_for_evaluation(run_dir, **how)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    model = create_model(config, info)
    _, path = restore_model(run_dir, checkpoint, model)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def predict_images(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict_at_own_size(model, images, config.data)

    def serve(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        labels, probabilities = predict_images(tf.constant(images))
        return labels.numpy(), probabilities.numpy()

    texts = json.dumps([config_io.to_dict(config), info.to_json()])
    return info, serve, fingerprint(sorted(Path(path).parent.glob(f"{Path(path).name}.*")), texts)


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Reads a JPEG or PNG file as RGB, upright: uint8 [H, W, 3].

    Raises:
      UserError: the file cannot be read or is not such an image.
    """
    return decode_image(read_encoded(path), os.fspath(path))


def read_info(path: str | os.PathLike[str]) -> DatasetInfo:
    """Reads the ``dataset.json`` of a run directory or an exported model.

    Raises:
      UserError: it is absent or damaged.
    """
    if not os.path.exists(path):
        raise UserError(
            f"{os.fspath(path)}: missing, so the run directory is incomplete; copy it whole, or train"
        )
    values = read_json(path)
    try:
        return DatasetInfo.from_json(values)
    except UserError as error:
        raise UserError(f"{os.fspath(path)}: {error}") from error
