"""A model as an ONNX file for images of any size."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.inference import predict_at_own_size
from pseudoseg_tf.nn.model import PseudoSegModel

# The newest that tf2onnx writes.
_OPSET = 18


def write_onnx(
    path: str | os.PathLike[str], model: PseudoSegModel, data: DataConfig, documents: Mapping[str, str]
) -> None:
    """Writes prediction as an ONNX file: input ``images``, outputs ``labels`` and ``probabilities``, as a SavedModel's.

    Args:
      path: file to write.
      model: predicts.
      data: canvas, scales and range of sizes; no windows, no mirrored passes.
      documents: name -> text, which becomes the file's metadata.

    Raises:
      ImportError: tf2onnx is not installed.
    """
    import tf2onnx

    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]

    @tf.function(input_signature=signature)
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        labels, probabilities = predict_at_own_size(model, images, data)
        return {"labels": labels, "probabilities": probabilities}

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto, _ = tf2onnx.convert.from_function(serve, signature, opset=_OPSET)
    for name, text in documents.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, text
    with open(path, "wb") as file:
        file.write(proto.SerializeToString())
