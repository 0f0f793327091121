"""A model as a TFLite file for images of up to a fixed size."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.inference import predict_as_configured
from pseudoseg_tf.nn.model import PseudoSegModel

Precision = Literal["float32", "float16", "int8"]
# Images uint8 [h, w, 3], as often as they are asked for.
Images = Callable[[], Iterator[np.ndarray]]


def write_tflite(
    path: str | os.PathLike[str],
    model: PseudoSegModel,
    data: DataConfig,
    precision: Precision,
    calibration_images: Images | None,
    documents: Mapping[str, str],
) -> None:
    """Writes the prediction of an image on the canvas ``data.eval_size`` as a TFLite file.

    Its signature ``serving_default`` takes ``image``, uint8 [1, H, W, 3], H and W being the canvas, whatever it
    holds beyond the image's ``size``, int32 [1, 2] (height and width); it returns ``labels`` uint8 [1, H, W] and
    ``probabilities`` float32 [1, H, W, C]. Normalization is inside, scales and mirrored passes too.

    Args:
      path: file to write.
      model: predicts.
      data: canvas, scales and flip; no windows, no range of sizes.
      precision: float16: weights are stored so. int8: weights and, where TFLite can, activations.
      calibration_images: for int8, what its ranges are measured on; a larger image than the canvas is cut.
      documents: name -> text; they are put into the file as a zip archive, as TFLite's own tools do.
    """
    height, width = data.eval_size
    image = tf.TensorSpec([1, height, width, 3], tf.uint8, name="image")

    @tf.function(input_signature=[image, tf.TensorSpec([1, 2], tf.int32, name="size")])
    def serve(image: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        labels, probabilities = predict_as_configured(model, image, data, size)
        return {"labels": labels, "probabilities": probabilities}

    def calibration() -> Iterator[dict[str, np.ndarray]]:
        assert calibration_images is not None
        for image in calibration_images():
            part = image[:height, :width]
            border = [(0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)]
            size = np.array([part.shape[:2]], np.int32)
            yield {"image": np.pad(part, border)[np.newaxis], "size": size}

    module = tf.Module()
    module.weights = list(serve.get_concrete_function().graph.variables)
    with tempfile.TemporaryDirectory() as saved_model, warnings.catch_warnings():
        # TensorFlow's converter measures ranges with its own interpreter, and warns that it will be replaced.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        tf.saved_model.save(module, saved_model, signatures=serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = calibration
        content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in documents.items():
            archive.writestr(name, text)
