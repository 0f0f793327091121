"""Writes a trained model as a SavedModel that needs nothing of this package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_json
from pseudoseg_tf.inference import predict_at_own_size, read_info
from pseudoseg_tf.train import create_model


def export(
    run_dir: str,
    out: str,
    checkpoint: str = "best",
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: tuple[int, int] | None = None,
    overlap: float | None = None,
) -> str:
    """Writes a checkpoint of a run as a SavedModel.

    Its signature ``serving_default`` takes ``images``, uint8 [B, H, W, 3] of any size, and returns ``labels``
    uint8 [B, H, W] and ``probabilities`` float32 [B, H, W, C]: padding, normalization, scales and mirrored
    passes, resize and softmax are inside and are those of evaluation. ``assets.extra/dataset.json`` holds
    class names and colors.

    With ``data.min_resize`` an image is resized inside, as in evaluation, which compares at that size; here
    the probabilities are then resized back to the image's own (bilinear, aligned corners).

    Args:
      run_dir: directory that ``train`` wrote.
      out: directory to write; must be absent or empty. It appears when it is complete.
      checkpoint: "last", "best" or the path of a checkpoint.
      scales: in place of the run's ``data.eval_scales``: each greater than 0 and at most 4.
      flip: in place of the run's ``data.eval_flip``.
      window: in place of the run's ``data.eval_window``; (0, 0): whole images.
      overlap: in place of the run's ``data.eval_overlap``.

    Returns:
      The path of the checkpoint that was exported.

    Raises:
      UserError: the run or checkpoint cannot be read, ``out`` is not empty, or a scale is not allowed.
    """
    out = os.path.abspath(out)
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise UserError(f"{out}: exists already; name a directory that is absent or empty")
    config = config_io.load_for_evaluation(run_dir, scales, flip, window, overlap)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    model = create_model(config, info)
    _, path = restore_model(run_dir, checkpoint, model)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        labels, probabilities = predict_at_own_size(model, images, config.data)
        return {"labels": labels, "probabilities": probabilities}

    # A plain module with the variables that prediction reads: saving the Keras model itself would add its
    # classes, and the parts that only training needs.
    module = tf.Module()
    module.weights = list(serve.get_concrete_function().graph.variables)
    temporary = f"{out}.{os.getpid()}.tmp"
    try:
        tf.saved_model.save(module, temporary, signatures=serve)
        write_json(os.path.join(temporary, "assets.extra", "dataset.json"), info.to_json())
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
