"""Writes a trained model for others to run: as SavedModel, TFLite or ONNX, none of which needs this package."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

import pseudoseg_tf
from pseudoseg_tf import config_io
from pseudoseg_tf.agreement import Agreement, compare_with_evaluation, images_within
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.config import Config, DataConfig
from pseudoseg_tf.data.decode import decode_image
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import validation_images
from pseudoseg_tf.export_onnx import write_onnx
from pseudoseg_tf.export_tflite import Images, Precision, write_tflite
from pseudoseg_tf.exported import DATASET_DOCUMENT, MODEL_DOCUMENT, SAVED_MODEL_DOCUMENTS
from pseudoseg_tf.files import check_directory, check_no_pattern, write_text
from pseudoseg_tf.inference import predict_at_own_size, read_info
from pseudoseg_tf.nn.model import PseudoSegModel

Format = Literal["saved_model", "tflite", "tflite_float16", "tflite_int8", "onnx"]


class _Bound(NamedTuple):
    """The worst agreement with evaluation that is written."""

    largest_difference: float
    same_class: float


# Formats of full precision only round. The others are other networks, whose probabilities may differ anywhere, and only
# their classes count: a runtime may compute in float16 where the weights are so.
_BOUNDS: Mapping[Format, _Bound] = {
    "saved_model": _Bound(1e-3, 0.999),
    "tflite": _Bound(1e-3, 0.999),
    "tflite_float16": _Bound(1.0, 0.95),
    "tflite_int8": _Bound(1.0, 0.85),
    "onnx": _Bound(1e-3, 0.999),
}
FORMATS = tuple(_BOUNDS)
_SUFFIXES: Mapping[Format, str] = {
    "saved_model": "",
    "tflite": ".tflite",
    "tflite_float16": ".tflite",
    "tflite_int8": ".tflite",
    "onnx": ".onnx",
}
_PRECISIONS: Mapping[Format, Precision] = {
    "tflite": "float32",
    "tflite_float16": "float16",
    "tflite_int8": "int8",
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What ``export`` wrote.

    Attributes:
      checkpoint: path of the checkpoint.
      agreement: with evaluation; None if it was not compared.
    """

    checkpoint: str
    agreement: Agreement | None


def export(
    run_dir: str,
    out: str,
    checkpoint: str = "best",
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: tuple[int, int] | None = None,
    overlap: float | None = None,
    *,
    format: Format = "saved_model",
    size: tuple[int, int] | None = None,
    precision: Literal["float32", "bfloat16", "float16"] | None = None,
    compare: int = 10,
    min_same_class: float | None = None,
    calibration: int = 100,
) -> Exported:
    """Writes a checkpoint of a run for others to run.

    A SavedModel's signature ``serving_default`` takes ``images``, uint8 [B, H, W, 3] of any size, and returns
    ``labels`` uint8 [B, H, W] and ``probabilities`` float32 [B, H, W, C]: padding, normalization, scales, mirrored
    passes and windows, resize and softmax are inside and are those of evaluation. Its signature ``encoded`` takes
    ``encoded_images``, the content of B JPEG or PNG files of one size, string [B], instead. An ONNX file is like
    ``serving_default``, without mirrored passes and windows. A TFLite file takes one image of up to a fixed size, see
    ``export_tflite.write_tflite``; it predicts as evaluation does with that ``data.eval_size``.

    Each holds two documents: ``dataset.json``, class names and colors, and ``model.json``: what it takes, how it
    predicts, the version, and the run, step and configuration it comes from. In a SavedModel they are files in
    ``assets.extra``, in a TFLite file those of a zip archive, in an ONNX file metadata.

    What was written is loaded in a fresh process and compared with evaluation on validation images. If it differs
    by more than rounding (float16 in 5% of the pixels, int8 in 15%), nothing remains of it.

    A SavedModel computes in ``precision``, the other formats in float32, and so does the evaluation that they are
    compared with.

    With ``data.min_resize`` an image is resized inside, as in evaluation, which compares at that size; here
    the probabilities are then resized back to the image's own (bilinear, aligned corners).

    Args:
      run_dir: directory that ``train`` wrote.
      out: what to write: a directory that is absent or empty, or an absent file whose name ends in .tflite or
        .onnx, as the format says. It appears when it is complete.
      checkpoint: "last", "best" or the path of a checkpoint.
      scales: in place of the run's ``data.eval_scales``: each greater than 0 and at most 4.
      flip: in place of the run's ``data.eval_flip``.
      window: in place of the run's ``data.eval_window``; (0, 0): whole images.
      overlap: in place of the run's ``data.eval_overlap``.
      format: one of ``FORMATS``.
      size: TFLite: height and width, each 16k+1; None: the run's ``data.eval_size``.
      precision: SavedModel: of convolutions and activations, in place of the run's ``runtime.precision``.
      compare: images to compare on; 0: none, then the run's data are not needed.
      min_same_class: least share of pixels with evaluation's class, in place of the format's own bound.
      calibration: int8: how many images of the run its ranges are measured on.

    Returns:
      The path of the checkpoint that was exported, and how the export compares.

    Raises:
      UserError: the run, checkpoint or data cannot be read, ``out`` exists, a value is not allowed or not possible
        in that format, or the export differs too much from evaluation.
    """
    out = os.path.abspath(out)
    _check_out(out, format)
    config = config_io.load_for_evaluation(run_dir, scales, flip, window, overlap)
    if format.startswith("tflite"):
        config = _with_canvas(config, size)
    elif size is not None:
        raise UserError(f"--size: {format} takes images of any size; leave it out")
    if format != "saved_model":
        if precision not in (None, "float32"):
            raise UserError(
                f"--precision: found {precision!r}, but {format} computes in float32; take --format=saved_model"
            )
        # Neither format has convolutions in bfloat16.
        precision = "float32"
    if precision is not None:
        config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, precision=precision))
        config_io.validate(config)
    _check_possible(config.data, format)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    model = create_model(config, info)
    step, path = restore_model(run_dir, checkpoint, model)
    images = None
    if compare:
        try:
            images = images_within(validation_images(config, run_dir, info), config.data, compare)
        except UserError as error:
            raise UserError(f"{error} (--compare=0 exports without comparing)") from error
    documents = {
        DATASET_DOCUMENT: _as_text(info.to_json()),
        MODEL_DOCUMENT: _as_text(_description(config, format, run_dir, path, step)),
    }
    # The suffix stays: it says what the file is.
    temporary = f"{os.path.splitext(out)[0]}.{os.getpid()}.tmp{_SUFFIXES[format]}"
    os.makedirs(os.path.dirname(out), exist_ok=True)
    try:
        if format == "saved_model":
            _write_saved_model(temporary, model, config.data, documents)
        elif format == "onnx":
            write_onnx(temporary, model, config.data, documents)
        else:
            ranges_of = _calibration_images(config, calibration) if format == "tflite_int8" else None
            write_tflite(temporary, model, config.data, _PRECISIONS[format], ranges_of, documents)
        agreement = None
        if images is not None:
            agreement = compare_with_evaluation(temporary, model, config.data, images)
            _check_agreement(agreement, format, min_same_class)
        os.replace(temporary, out)
    except ImportError as error:
        raise UserError(
            f"--format: onnx needs {error.name}; pip install 'pseudoseg_tf[onnx]', or export another format"
        ) from error
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary)
        else:
            Path(temporary).unlink(missing_ok=True)
    return Exported(path, agreement)


def _check_out(out: str, format: Format) -> None:
    if format not in FORMATS:
        raise UserError(f"--format: found {format!r}, must be one of {', '.join(FORMATS)}")
    suffix = _SUFFIXES[format]
    if suffix:
        if not out.endswith(suffix):
            raise UserError(f"--out: found {out!r}, must end in {suffix} with --format={format}")
        if os.path.exists(out):
            raise UserError(f"{out}: exists already; name another file")
    elif out.endswith((".tflite", ".onnx")):
        raise UserError(
            f"--out: found {out!r}, but --format={format} is a directory; name another, or take --format="
            f"{out.rpartition('.')[2]}"
        )
    elif os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise UserError(f"{out}: exists already; name a directory that is absent or empty")
    check_directory(os.path.dirname(out))
    if not suffix:
        check_no_pattern(out)


def _with_canvas(config: Config, size: tuple[int, int] | None) -> Config:
    size = size or config.data.eval_size
    if not any(size):
        raise UserError(
            "--size: missing, and data.eval_size of the run is 0,0; name height,width of the largest image, each 16k+1"
        )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_size=size))
    config_io.validate(config)
    return config


def _check_possible(data: DataConfig, format: Format) -> None:
    """Raises UserError for what a format cannot do."""
    impossible = []
    if format != "saved_model":
        impossible.append(("--window", any(data.eval_window), "sliding windows", "--window=0"))
        impossible.append(("data.min_resize", data.min_resize > 0, "resizing of its input", "another run"))
    if format == "onnx":
        impossible.append(("--flip", data.eval_flip, "mirrored passes", "--noflip"))
    for name, wanted, what, instead in impossible:
        if wanted:
            raise UserError(f"{name}: {format} has no {what}; take {instead}, or --format=saved_model")


def _check_agreement(agreement: Agreement, format: Format, min_same_class: float | None) -> None:
    bound = _BOUNDS[format]
    if min_same_class is not None:
        bound = _Bound(1.0, min_same_class)
    if agreement.same_class < bound.same_class or agreement.largest_difference > bound.largest_difference:
        raise UserError(
            f"--format: {format} differs from evaluation too much to be written: {agreement}; allowed: a difference "
            f"of {bound.largest_difference:g} and {100 * bound.same_class:g}%; take another format, or say with "
            "--min_same_class what is enough"
        )


def _write_saved_model(
    path: str, model: PseudoSegModel, data: DataConfig, documents: Mapping[str, str]
) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        labels, probabilities = predict_at_own_size(model, images, data)
        return {"labels": labels, "probabilities": probabilities}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="encoded_images")])
    def serve_encoded(encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.TensorSpec([None, None, 3], tf.uint8)
        return serve(tf.map_fn(_decode, encoded_images, fn_output_signature=pixels))

    # A plain module with the variables that prediction reads: saving the Keras model itself would add its
    # classes, and the parts that only training needs.
    module = tf.Module()
    module.weights = list(serve.get_concrete_function().graph.variables)
    tf.saved_model.save(module, path, signatures={"serving_default": serve, "encoded": serve_encoded})
    for name, text in documents.items():
        write_text(os.path.join(path, SAVED_MODEL_DOCUMENTS, name), text)


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    """The content of a JPEG or PNG file to uint8 [H, W, 3], in the graph; JPEG as exactly as TensorFlow can."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )


def _calibration_images(config: Config, count: int) -> Images:
    """Images that the run learned from, the additional ones if there are some."""
    sources = open_sources(config.data, config.train.mode)
    source = sources.unlabeled or sources.labeled
    every = max(1, len(source) // count)

    def images() -> Iterator[np.ndarray]:
        for index in range(0, len(source), every)[:count]:
            record = source.read(index)
            yield decode_image(record.image, record.id)

    return images


def _description(config: Config, format: Format, run_dir: str, checkpoint: str, step: int) -> dict[str, Any]:
    """What the model document says."""
    values = config_io.to_dict(config)
    how = [name for name in values["data"] if name.startswith("eval_") and name != "eval_batch"]
    how += ["min_resize", "max_resize", "resize_factor"]
    fixed = list(config.data.eval_size) if format.startswith("tflite") else None
    prediction = {f"data.{name}": values["data"][name] for name in how}
    return {
        "format": format,
        "input": {"pixels": "uint8 RGB, 0 to 255; normalized inside", "largest_size": fixed},
        "output": {"labels": "class ids", "probabilities": "sum to 1 over the classes"},
        "prediction": {**prediction, "runtime.precision": config.runtime.precision},
        "pseudoseg_tf": pseudoseg_tf.__version__,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "run": {
            "name": os.path.basename(os.path.abspath(run_dir)),
            "checkpoint": os.path.relpath(checkpoint, run_dir),
            "step": step,
            "backbone": config.model.backbone,
            "config_sha256": hashlib.sha256(Path(run_dir, "config.json").read_bytes()).hexdigest(),
        },
    }


def _as_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
