"""Whether an exported model predicts what evaluation does: it is loaded in a fresh process and asked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.geometry import resize_image
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.data.selection import Selection
from pseudoseg_tf.data.specs import Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.inference import labels_of, predict_as_configured
from pseudoseg_tf.metrics import confusion_matrix, intersection_over_union
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.progress import Progress


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How an export compares with evaluation on some images.

    Attributes:
      images: how many.
      largest_difference: of a probability, over all pixels and classes.
      same_class: share of pixels with the same class.
      miou: of the export on these images.
      evaluated_miou: of evaluation on them.
    """

    images: int
    largest_difference: float
    same_class: float
    miou: float
    evaluated_miou: float

    def __str__(self) -> str:
        return (
            f"{self.images} images, largest probability difference {self.largest_difference:.2g}, same class on "
            f"{100 * self.same_class:.4f}% of the pixels, mIoU {100 * self.miou:.2f} (evaluation "
            f"{100 * self.evaluated_miou:.2f})"
        )


def images_within(source: Source, data: DataConfig, count: int) -> Selection:
    """Some images, evenly spread, that are not larger than the canvas, if there is one.

    Raises:
      UserError: all of them are larger.
    """
    chosen: list[int] = []
    # Steps of the golden ratio: however many are taken, they come from all parts of the list.
    spread = sorted(range(len(source)), key=lambda index: (index * 0.6180339887) % 1)
    for index in spread:
        if len(chosen) == count:
            break
        height, width, _ = decode_record(source.read(index), source.info.num_classes)[0].shape
        fits = height <= data.eval_size[0] and width <= data.eval_size[1]
        # With data.min_resize the canvas is for what images are resized to.
        if fits or data.min_resize or not any(data.eval_size):
            chosen.append(index)
    if not chosen:
        raise UserError(
            f"--size: all {len(source)} validation images are larger than {data.eval_size[0]},{data.eval_size[1]} "
            "(height,width), so the export cannot be compared with evaluation; take a larger size"
        )
    return Selection(source, sorted(chosen))


def compare_with_evaluation(
    export: str | os.PathLike[str], model: PseudoSegModel, data: DataConfig, images: Source
) -> Agreement:
    """Loads an export in a fresh process and compares its predictions with those of evaluation.

    Args:
      export: path of what was written.
      model: that it was made of.
      data: how evaluation predicts, as the export does.
      images: with masks.

    Raises:
      UserError: the fresh process cannot load or run the export.
    """
    data = dataclasses.replace(data, eval_batch=1)
    num_classes = images.info.num_classes

    @tf.function(reduce_retracing=True)
    def evaluate(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        return predict_as_configured(model, image, data, size)[1]

    largest, same, pixels = 0.0, 0, 0
    confusions = np.zeros([2, num_classes, num_classes], np.int64)
    originals = (decode_record(images.read(index), num_classes) for index in range(len(images)))
    with (
        _FreshProcess(export) as predict,
        Progress(len(images), "compare with evaluation") as progress,
    ):
        for (image, masks), batch in zip(originals, evaluation_dataset(images, data), strict=True):
            height, width = batch["size"][0].numpy()
            expected = evaluate(batch["image"], batch["size"])[:, :height, :width]
            if data.min_resize:
                expected = resize_image(expected, image.shape[:2])
            labels, probabilities = predict(image)
            expected_labels = labels_of(expected).numpy()[0]
            if not (np.isfinite(probabilities).all() and np.isfinite(expected).all()):
                raise UserError(
                    f"{os.fspath(export)}: a probability is not finite, in the export or in evaluation: the checkpoint "
                    "is of no use, or float16 is too small for its network (--precision=float32)"
                )
            largest = max(largest, float(np.abs(probabilities - expected[0]).max()))
            same += int((labels == expected_labels).sum())
            pixels += labels.size
            for confusion, found in zip(confusions, (labels, expected_labels), strict=True):
                confusion += confusion_matrix(masks, tf.constant(found), num_classes).numpy()
            progress.update()
    miou, evaluated_miou = (
        float(np.nanmean(intersection_over_union(confusion))) if confusion.any() else float("nan")
        for confusion in confusions
    )
    return Agreement(len(images), largest, same / pixels, miou, evaluated_miou)


class _FreshProcess:
    """Asks a process of its own for predictions of an export; use as a context manager."""

    def __init__(self, export: str | os.PathLike[str]) -> None:
        self._export = os.fspath(export)

    def __enter__(self) -> _FreshProcess:
        self._folder = tempfile.TemporaryDirectory()
        self._said = open(Path(self._folder.name, "said.txt"), "w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pseudoseg_tf.exported", self._export],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        return self

    def __call__(self, image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray, npt.NDArray]:
        path = Path(self._folder.name, "image.npy")
        np.save(path, image)
        questions, answers = self._pipes()
        try:
            questions.write(f"{path}\n")
            questions.flush()
            answered = answers.readline() == "done\n"
        except BrokenPipeError:
            answered = False
        if not answered:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            raise UserError(
                f"{self._export}: a fresh process cannot run it ({said[-1] if said else 'no word'})"
            )
        names = "labels.npy", "probabilities.npy"
        labels, probabilities = (np.load(path.with_name(name), allow_pickle=False) for name in names)
        return labels, probabilities

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes():
            # A process that has died leaves a question unread.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
        self._said.close()
        self._folder.cleanup()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout
