"""Exported models as they are run: a SavedModel, a TFLite or an ONNX file.

As a program it answers ``agreement``: ``python -m pseudoseg_tf.exported EXPORT`` reads a line for each image, the path
of its .npy file, writes the prediction beside it and answers with a line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pseudoseg_tf.data.specs import DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json

# Documents about the model inside each export: the classes; how it was made and what it takes.
DATASET_DOCUMENT = "dataset.json"
MODEL_DOCUMENT = "model.json"
# Where a SavedModel keeps files that TensorFlow does not read.
SAVED_MODEL_DOCUMENTS = "assets.extra"

_Images = npt.NDArray[np.uint8]
# uint8 [B, H, W, 3] -> labels uint8 [B, H, W] and probabilities float32 [B, H, W, C].
Serve = Callable[[_Images], tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]


class ExportedModel(NamedTuple):
    """A model that was exported, loaded.

    Attributes:
      info: the classes.
      description: the model document; empty for a SavedModel of a version that wrote none.
      serve: predicts a batch of images of one size.
      fingerprint: SHA-256 of the export.
    """

    info: DatasetInfo
    description: dict[str, Any]
    serve: Serve
    fingerprint: str


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> ExportedModel:
    """Loads what ``export`` wrote.

    Args:
      path: the directory of a SavedModel, or a .tflite or .onnx file.
      threads: that a file's prediction uses; None: what its runtime takes by itself.

    Raises:
      UserError: it is nothing of that kind, or damaged.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".tflite", ".onnx"):
        load = _load_tflite if path.suffix == ".tflite" else _load_onnx
    elif (path / "saved_model.pb").is_file():
        return _load_saved_model(path)
    elif not path.exists():
        raise UserError(f"{path}: does not exist; give what pseudoseg-export wrote, or a run directory")
    else:
        raise UserError(
            f"{path}: no saved_model.pb here, and no .tflite or .onnx file; give what pseudoseg-export wrote, or "
            "a run directory"
        )
    try:
        documents, serve = load(path, threads)
        parsed = {name: json.loads(documents[name]) for name in (DATASET_DOCUMENT, MODEL_DOCUMENT)}
    except ImportError as error:
        raise UserError(
            f"{path}: {error.name} is not installed; pip install 'pseudoseg_tf[onnx]', or export another format"
        ) from error
    # Both runtimes raise types of their own for damaged files.
    except Exception as error:
        raise _damaged(path, error) from error
    return ExportedModel(
        DatasetInfo.from_json(parsed[DATASET_DOCUMENT]), parsed[MODEL_DOCUMENT], serve, fingerprint([path])
    )


def fingerprint(paths: Iterable[Path], *more: str) -> str:
    """SHA-256 of files and everything in directories, names of files below these included, and of texts."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(os.fsencode(file.relative_to(path)) + b"\0")
                content = hashlib.sha256()
                with open(file, "rb") as opened:
                    while block := opened.read(1 << 20):
                        content.update(block)
                digest.update(content.digest())
    for text in more:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _load_saved_model(path: Path) -> ExportedModel:
    # TensorFlow takes seconds to import, and files need none.
    import tensorflow as tf

    documents = path / SAVED_MODEL_DOCUMENTS
    values = read_json(documents / DATASET_DOCUMENT)
    try:
        info = DatasetInfo.from_json(values)
    except UserError as error:
        raise UserError(f"{documents / DATASET_DOCUMENT}: {error}") from error
    has_description = (documents / MODEL_DOCUMENT).is_file()
    description = read_json(documents / MODEL_DOCUMENT) if has_description else {}
    try:
        loaded = tf.saved_model.load(str(path))
        loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise _damaged(path, error) from error

    def serve(images: _Images) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        # The signature alone would not keep the variables alive: the loaded object does.
        output = loaded.signatures["serving_default"](images=tf.constant(images))
        return output["labels"].numpy(), output["probabilities"].numpy()

    return ExportedModel(info, description, serve, fingerprint([path]))


def _load_tflite(path: Path, threads: int | None) -> tuple[dict[str, bytes], Serve]:
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(path) as archive:
        documents = {name: archive.read(name) for name in (DATASET_DOCUMENT, MODEL_DOCUMENT)}
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    runner = interpreter.get_signature_runner("serving_default")
    canvas = tuple(int(side) for side in runner.get_input_details()["image"]["shape"][1:3])

    def serve(images: _Images) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        height, width = images.shape[1:3]
        if height > canvas[0] or width > canvas[1]:
            raise UserError(
                f"{path}: takes images of at most {canvas[0]}x{canvas[1]} (height x width), found {height}x{width}; "
                "shrink the image, or export with a larger --size"
            )
        border = [(0, canvas[0] - height), (0, canvas[1] - width), (0, 0)]
        size = np.array([[height, width]], np.int32)
        outputs = [runner(image=np.pad(image, border)[np.newaxis], size=size) for image in images]
        labels, probabilities = (
            np.concatenate([output[name][:, :height, :width] for output in outputs])
            for name in ("labels", "probabilities")
        )
        return labels, probabilities

    return documents, serve


def _load_onnx(path: Path, threads: int | None) -> tuple[dict[str, str], Serve]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def serve(images: _Images) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        labels, probabilities = session.run(["labels", "probabilities"], {"images": images})
        return labels, probabilities

    return dict(session.get_modelmeta().custom_metadata_map), serve


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path}: cannot be loaded ({reason}); export the model again")


def _answer(lines: Iterable[str], argv: Sequence[str]) -> None:
    exported = load_exported(argv[1])
    for line in lines:
        path = Path(line.rstrip("\n"))
        labels, probabilities = exported.serve(np.load(path, allow_pickle=False)[np.newaxis])
        np.save(path.with_name("labels.npy"), labels[0])
        np.save(path.with_name("probabilities.npy"), probabilities[0])
        print("done", flush=True)


if __name__ == "__main__":
    _answer(sys.stdin, sys.argv)
