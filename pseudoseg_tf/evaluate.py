"""Scores a model on the validation images: during training, and alone on the checkpoint of a run."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orbit
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_strategy
from pseudoseg_tf.checkpoint import find_checkpoint, restore_model
from pseudoseg_tf.config import Config, DataConfig
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import DatasetInfo, Source
from pseudoseg_tf.files import check_directory, write_json
from pseudoseg_tf.inference import predict_as_configured, read_info
from pseudoseg_tf.metrics import Reliability, SegmentationMetrics
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.progress import Progress
from pseudoseg_tf.reliability_diagram import save_reliability_diagrams
from pseudoseg_tf.run_data import check_classes


class Evaluator(orbit.StandardEvaluator):
    """Runs the model over a whole data set and accumulates the metrics.

    Attributes:
      result: of the latest evaluation: ``miou``, ``pixel_accuracy``, ``ece``, ``iou`` (class name -> float
        or None, see ``SegmentationMetrics.result``) and ``images``, the number of images seen.
    """

    def __init__(
        self,
        model: PseudoSegModel,
        dataset: tf.data.Dataset,
        info: DatasetInfo,
        images: int,
        strategy: tf.distribute.Strategy,
        data: DataConfig,
    ) -> None:
        """Distributes the batches of the data set over the replicas.

        Args:
          model: a ``PseudoSegModel`` created in the scope of ``strategy``.
          dataset: ``data.pipeline.evaluation_dataset``; each replica takes whole batches of it in turn.
          info: the classes.
          images: number of images in ``dataset``, for the progress line.
          strategy: the strategy that the model lives in.
          data: how images are predicted: canvas, scales, mirrored passes, windows.
        """
        self._model = model
        self._info = info
        self._images = images
        self._strategy = strategy
        self._data = data
        # Inside a namespace, because a tf.Module replaces dictionaries among its attributes by tracked ones.
        self._latest = types.SimpleNamespace(result={}, reliability=None)
        with strategy.scope():
            self._metrics = SegmentationMetrics(info.num_classes)
        super().__init__(
            strategy.distribute_datasets_from_function(
                lambda context: dataset.shard(context.num_input_pipelines, context.input_pipeline_id)
            )
        )

    @property
    def result(self) -> dict[str, Any]:
        """The full metrics of the latest evaluation; empty before the first."""
        return self._latest.result

    @property
    def reliability(self) -> Reliability:
        """How confidence and accuracy agreed in the latest evaluation, of which there must be one."""
        return self._latest.reliability

    def evaluate(self, num_steps: tf.Tensor) -> dict[str, float]:
        """Evaluates ``num_steps`` batches per replica, or all with -1; returns what ``eval_end`` does."""
        with Progress(self._images, "evaluate") as self._progress:
            return super().evaluate(num_steps)

    def eval_begin(self) -> int:
        """Forgets the previous evaluation; the state of the loop is the number of images seen."""
        with self._strategy.scope():
            self._metrics.reset()
        return 0

    def eval_step(self, iterator: Iterator[Mapping[str, tf.Tensor]]) -> tf.Tensor:
        """Evaluates one batch on each replica; returns how many images that were, int32."""

        @tf.autograph.experimental.do_not_convert
        def replica_step(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
            def score() -> tf.Tensor:
                _, probabilities = predict_as_configured(
                    self._model, batch["image"], self._data, batch["size"]
                )
                self._metrics.update(batch["labels"], probabilities)
                return tf.shape(batch["image"])[0]

            # A replica that has run out of batches before the others gets an empty one.
            return tf.cond(tf.size(batch["image"]) > 0, score, lambda: 0)

        images = self._strategy.run(replica_step, args=(next(iterator),))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, images, axis=None)

    def eval_reduce(self, state: int, step_outputs: tf.Tensor) -> int:
        """Adds the images of a step to those seen."""
        images = int(step_outputs)
        self._progress.update(images)
        return state + images

    def eval_end(self, images: int) -> dict[str, float]:
        """Stores the full ``result``; returns its scalars ``miou``, ``pixel_accuracy`` and ``ece``."""
        with self._strategy.scope():
            result = self._metrics.result(self._info.class_names)
            self._latest.reliability = self._metrics.reliability()
        self._latest.result = result | {"images": images}
        return {name: result[name] for name in ("miou", "pixel_accuracy", "ece")}


def validation_images(config: Config, run_dir: str, info: DatasetInfo) -> Source:
    """Opens the validation images of a run.

    Args:
      config: of the run.
      run_dir: its directory, for the message.
      info: the classes that it was trained with.

    Raises:
      UserError: the data cannot be read or has other classes.
    """
    # Of labeled images alone, whatever the run was trained on.
    val = open_sources(dataclasses.replace(config.data, pseudo_labels=""), "supervised").val
    check_classes(run_dir, val.info, info)
    return val


def evaluate(
    run_dir: str,
    checkpoint: str = "last",
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: tuple[int, int] | None = None,
    overlap: float | None = None,
) -> dict[str, Any]:
    """Scores a checkpoint of a run on the validation images.

    Writes ``metrics.json`` and a reliability diagram, ``reliability.png``, to the run directory.

    Args:
      run_dir: directory that ``train`` wrote.
      checkpoint: "last", "best" or the path of a checkpoint.
      scales: in place of the run's ``data.eval_scales``: each greater than 0 and at most 4.
      flip: in place of the run's ``data.eval_flip``.
      window: in place of the run's ``data.eval_window``; (0, 0): whole images.
      overlap: in place of the run's ``data.eval_overlap``.

    Returns:
      What ``metrics.json`` holds: ``miou``, ``pixel_accuracy``, ``ece``, ``iou`` (class name -> float, or
      None for a class that is neither label nor prediction), ``images``, ``step``, ``checkpoint``, and how the
      images were predicted: ``scales``, ``flip``, ``window`` and ``overlap``.

    Raises:
      UserError: the run directory, checkpoint or data cannot be read, the data set has other classes than
        the run, or a given value is not allowed.
    """
    config = config_io.load_for_evaluation(run_dir, scales, flip, window, overlap)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    check_directory(run_dir)
    find_checkpoint(run_dir, checkpoint)  # before the data, which may take long to open
    # Before the data, because it also sets the number of threads.
    strategy = create_strategy(config.runtime)
    val = validation_images(config, run_dir, info)
    with strategy.scope():
        model = create_model(config, info)
        step, path = restore_model(run_dir, checkpoint, model)
    evaluator = Evaluator(
        model,
        evaluation_dataset(val, config.data),
        info,
        len(val),
        strategy,
        config.data,
    )
    evaluator.evaluate(tf.constant(-1))
    data = config.data
    predicted = {
        "scales": list(data.eval_scales),
        "flip": data.eval_flip,
        "window": list(data.eval_window),
        "overlap": data.eval_overlap,
    }
    result = evaluator.result | {"step": step, "checkpoint": path} | predicted
    save_reliability_diagrams(
        os.path.join(run_dir, "reliability.png"), {f"step {step}": evaluator.reliability}
    )
    write_json(os.path.join(run_dir, "metrics.json"), result)
    return result
