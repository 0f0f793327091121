"""A folder of predictions: pictures, probabilities, and one JSON file about all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json, write_json
from pseudoseg_tf.inference import Prediction
from pseudoseg_tf.visualize import save_image, save_palette_png

SUMMARY = "predictions.json"
# A few hundred bytes for each image.
_MAX_SUMMARY_BYTES = 1 << 30
# Seconds between two writes of the summary while images are predicted.
_INTERVAL = 10.0


class PredictionFolder:
    """Writes predictions and remembers them; use as a context manager, which completes the summary at its end.

    ``predictions.json`` holds ``model``, the fingerprint, and ``images``: name -> ``image`` (its path), ``size``
    (height and width), ``mean_confidence``, and ``classes``: name -> ``pixels`` and ``share`` of each class there is.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: str,
        probabilities: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the folder, or makes it when something is written.

        Args:
          path: of the folder.
          fingerprint: of the model.
          probabilities: whether they are wanted, too.
          clock: for the time between two writes of the summary.

        Raises:
          UserError: it holds predictions of another model, or a damaged summary.
        """
        self._path = Path(path)
        self._fingerprint = fingerprint
        self._suffixes = [".png", "_overlay.jpg", *([".npz"] if probabilities else [])]
        self._clock = clock
        self._written = clock()
        self._images: dict[str, dict[str, Any]] = {}
        summary = self._path / SUMMARY
        if summary.exists():
            values = read_json(summary, _MAX_SUMMARY_BYTES)
            if not isinstance(values, dict) or not isinstance(values.get("images"), dict):
                raise UserError(f"{summary}: no summary of pseudoseg-predict; name another folder")
            if values.get("model") != fingerprint:
                raise UserError(
                    f"{self._path}: holds predictions of another model, or of this one predicting otherwise; name "
                    "another folder, or remove it"
                )
            self._images = values["images"]

    def has(self, name: str, image: Path) -> bool:
        """Whether the image is predicted already: its files are there and not older than the image."""
        entry = self._images.get(name)
        if entry is None or entry.get("image") != str(image):
            return False
        try:
            since = image.stat().st_mtime
            return all(self._file(name, suffix).stat().st_mtime >= since for suffix in self._suffixes)
        except FileNotFoundError:
            return False

    def write(self, name: str, image: Path, prediction: Prediction) -> None:
        """Writes the files of one image.

        Raises:
          UserError: a file cannot be written.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        info = prediction.info
        save_image(self._file(name, "_overlay.jpg"), prediction.overlay)
        if ".npz" in self._suffixes:
            self._write_probabilities(self._file(name, ".npz"), prediction.probabilities)
        save_palette_png(self._file(name, ".png"), prediction.labels, info.palette)
        pixels = np.bincount(prediction.labels.ravel(), minlength=info.num_classes)
        self._images[name] = {
            "image": str(image),
            "size": list(prediction.labels.shape),
            "mean_confidence": float(prediction.confidence.mean(dtype=np.float64)),
            "classes": {
                info.class_names[index]: {
                    "pixels": int(count),
                    "share": float(count / prediction.labels.size),
                }
                for index, count in enumerate(pixels)
                if count
            },
        }
        if self._clock() - self._written >= _INTERVAL:
            self._write_summary()

    def __enter__(self) -> PredictionFolder:
        return self

    def __exit__(self, *_: object) -> None:
        # Where nothing could be predicted nothing is left.
        if self._images:
            self._write_summary()

    def _write_summary(self) -> None:
        write_json(self._path / SUMMARY, {"model": self._fingerprint, "images": self._images})
        self._written = self._clock()

    def _file(self, name: str, suffix: str) -> Path:
        return self._path / f"{name}{suffix}"

    def _write_probabilities(self, path: Path, probabilities: np.ndarray) -> None:
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
        try:
            np.savez_compressed(temporary, probabilities=probabilities.astype(np.float16))
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)
