"""What a report says of a run: its records, its scores image by image, and how it sees single images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_strategy
from pseudoseg_tf.calibration import has_trained_sgc, image_labels_of_training, validation_branch
from pseudoseg_tf.checkpoint import find_checkpoint, restore_model
from pseudoseg_tf.comparison import read_lines
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.data.selection import Selection
from pseudoseg_tf.data.specs import DatasetInfo, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import validation_images
from pseudoseg_tf.inference import predict_as_configured, read_info
from pseudoseg_tf.metrics import (
    CALIBRATION_BINS,
    Reliability,
    calibration_sums,
    confusion_matrix,
    intersection_over_union,
    scores,
)
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.nn.pass_cost import PassCost, count_pass
from pseudoseg_tf.progress import Progress

UInt8 = npt.NDArray[np.uint8]
Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Scores:
    """How good a checkpoint is on the validation images.

    Attributes:
      confusion: int64 [C, C], pixels; rows are labels, columns predictions.
      reliability: confidence against accuracy.
      image_miou: float64 [images], the mean IoU over the classes that are label or prediction in an image; NaN
        where no pixel has a label.
      summary: ``miou``, ``pixel_accuracy``, ``ece``, ``iou``, see ``SegmentationMetrics.result``.
    """

    confusion: npt.NDArray[np.int64]
    reliability: Reliability
    image_miou: npt.NDArray[np.float64]
    summary: dict[str, Any]


class Explained(NamedTuple):
    """An image and what a run makes of it. Coarse maps are enlarged to the image, their cells visible.

    Attributes:
      image: uint8 [H, W, 3].
      labels: uint8 [H, W], 255 where there is none.
      prediction: uint8 [H, W].
      cam: float32 [H, W, K] in [0, 1], Grad-CAM; None, as the next ones, if self-attention was not trained.
      sgc: uint8 [H, W], the class that self-attention favors.
      decoder: uint8 [H, W], the class that the decoder favors, at its own resolution.
      pseudo_label: uint8 [H, W].
    """

    image: UInt8
    labels: UInt8
    prediction: UInt8
    cam: npt.NDArray[np.float32] | None = None
    sgc: UInt8 | None = None
    decoder: UInt8 | None = None
    pseudo_label: UInt8 | None = None


class ReportedRun:
    """A run, its records read and its checkpoint restored.

    Attributes:
      directory: of the run.
      name: what the report calls it.
      record: preset, configuration and versions.
      info: the classes.
      history: the lines of ``history.jsonl``, one or more.
      training: the lines of ``training.jsonl``.
      step: of the checkpoint.
      val: the validation images.
    """

    def __init__(self, run_dir: str, name: str, checkpoint: str, strategy: tf.distribute.Strategy) -> None:
        """Opens a run directory.

        Raises:
          UserError: it is none, was never evaluated, or its checkpoint or data cannot be read.
        """
        self.directory = Path(run_dir)
        self.name = name
        self.record = config_io.load_record(run_dir)
        self.info: DatasetInfo = read_info(os.path.join(run_dir, "dataset.json"))
        self.history = read_lines(self.directory / "history.jsonl")
        self.training = read_lines(self.directory / "training.jsonl")
        if not self.history:
            raise UserError(f"{run_dir}: no evaluation in history.jsonl yet; let the run come so far")
        find_checkpoint(run_dir, checkpoint)  # before the data, which may take long to open
        self.val: Source = validation_images(self.config, run_dir, self.info)
        with strategy.scope():
            self._model: PseudoSegModel = create_model(self.config, self.info)
            self.step, _ = restore_model(run_dir, checkpoint, self._model)

    @property
    def config(self) -> Config:
        """As it was trained."""
        return self.record.config

    @property
    def parameters(self) -> int:
        """Of the network, in all."""
        return self._model.count_params()

    def count_pass(self) -> PassCost:
        """What one pass of a training crop costs."""
        return count_pass(self._model, *self.config.data.crop_size)

    def score(self) -> Scores:
        """Predicts every validation image as evaluation does.

        Raises:
          UserError: no pixel has a label, or the weights have diverged.
        """
        num_classes = self.info.num_classes
        dataset = evaluation_dataset(self.val, self.config.data)

        @tf.function(input_signature=[dataset.element_spec])
        def count(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            predictions, probabilities = self._predict(batch)
            each = tf.map_fn(
                lambda pair: confusion_matrix(pair[0], pair[1], num_classes),
                (batch["labels"], predictions),
                fn_output_signature=tf.TensorSpec([num_classes, num_classes], tf.int64),
            )
            return each, calibration_sums(batch["labels"], probabilities)

        confusion = np.zeros([num_classes, num_classes], np.int64)
        sums = np.zeros([CALIBRATION_BINS, 3])
        ious = []
        with Progress(len(self.val), f"score {self.name}") as progress:
            for batch in dataset:
                each, calibration = (part.numpy() for part in count(batch))
                confusion += each.sum(axis=0)
                sums += calibration
                ious += [intersection_over_union(image) for image in each]
                progress.update(len(each))
        known = [iou[~np.isnan(iou)] for iou in ious]
        image_miou = np.array([iou.mean() if iou.size else np.nan for iou in known])
        reliability = Reliability(sums)
        return Scores(
            confusion, reliability, image_miou, scores(confusion, reliability, self.info.class_names)
        )

    def explain(self, indices: Sequence[int]) -> list[Explained]:
        """Predicts some validation images and, if self-attention was trained, how their pseudo labels come about."""
        dataset = evaluation_dataset(Selection(self.val, indices), self.config.data)
        with_maps = has_trained_sgc(self.config)

        @tf.function(input_signature=[dataset.element_spec])
        def look(batch: Batch) -> dict[str, tf.Tensor]:
            shown = {"prediction": self._predict(batch)[0]}
            if with_maps:
                branch = validation_branch(
                    self._model, self.config, batch, image_labels_of_training(self.config)
                )
                shown |= {
                    "cam": branch.cam,
                    "sgc": _favorite(branch.sgc_logits),
                    "decoder": _favorite(branch.decoder_logits),
                    "pseudo_label": _favorite(branch.pseudo_label),
                }
            return shown

        explained = []
        for batch in dataset:
            shown = {name: each.numpy() for name, each in look(batch).items()}
            canvas = batch["labels"].shape[1:3]
            for k, size in enumerate(batch["size"].numpy()):
                height, width = map(int, size)
                maps = {name: _on_image(each[k], canvas, (height, width)) for name, each in shown.items()}
                # After a resize images are not whole numbers.
                image = np.rint(batch["image"][k, :height, :width].numpy()).clip(0, 255).astype(np.uint8)
                labels = batch["labels"][k, :height, :width].numpy()
                explained.append(Explained(image, labels, **maps))
        return explained

    def _predict(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        return predict_as_configured(self._model, batch["image"], self.config.data, batch["size"])


def open_runs(run_dirs: Sequence[str], checkpoint: str) -> list[ReportedRun]:
    """Opens runs that can be compared; the report is on the first.

    Args:
      run_dirs: directories that ``train`` wrote.
      checkpoint: "last" or "best" of each; the path of a checkpoint if there is but one run.

    Raises:
      UserError: one cannot be read, or they were scored on other images or classes than the first.
    """
    # One strategy for all: the first run decides on the threads.
    runtime = config_io.load(run_dirs[0]).runtime
    strategy = create_strategy(dataclasses.replace(runtime, strategy="one_device"))
    runs: list[ReportedRun] = []
    for run_dir, name in zip(run_dirs, short_names(run_dirs), strict=True):
        run = ReportedRun(run_dir, name, checkpoint, strategy)
        first = runs[0] if runs else run
        if run.info.class_names != first.info.class_names or list(run.val.ids) != list(first.val.ids):
            raise UserError(
                f"--compare: {run_dir} has other classes or validation images than {run_dirs[0]}; compare runs "
                "that were scored on the same"
            )
        runs.append(run)
    return runs


def short_names(run_dirs: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole path where several end alike."""
    ends = [Path(run_dir).absolute().name for run_dir in run_dirs]
    return [
        end if ends.count(end) == 1 else str(run_dir) for end, run_dir in zip(ends, run_dirs, strict=True)
    ]


def _favorite(scores_of_classes: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(scores_of_classes, -1, output_type=tf.int32), tf.uint8)


def _on_image(cells: np.ndarray, canvas: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Enlarges a map of a canvas, corners aligned, and cuts the image out, by nearest cells: [h, w, ...]."""
    rows, columns = (
        np.rint(np.arange(side) * (count - 1) / max(1, whole - 1)).astype(int)
        for side, count, whole in zip(size, cells.shape, canvas, strict=False)
    )
    return cells[rows][:, columns]
