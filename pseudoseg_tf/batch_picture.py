"""A picture of one training batch: both views, the pixels that count, and the labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf.config import Config
from pseudoseg_tf.data import color, pipeline
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.visualize import class_legend, colorize, picture_grid

UInt8 = npt.NDArray[np.uint8]

# Rows of each stream, at most.
_EXAMPLES = 8


def batch_picture(config: Config, sources: Sources, step: int = 0) -> UInt8:
    """Draws what a step learns from: a row for each example, labeled ones first.

    Args:
      config: of the run.
      sources: its data.
      step: which batch.

    Returns:
      uint8 [rows, columns, 3]: the weak view; the strong view, which labeled examples do not have; the pixels that
      count, white, where there is neither padding nor CutOut; and the labels, which are of no use to the step in
      additional examples.
    """
    info = sources.info
    batch = next(iter(pipeline.training_dataset(sources, config.data, config.train.mode, step)))
    rows = [_rows({name: values[:_EXAMPLES] for name, values in batch["labeled"].items()})]
    if "unlabeled" in batch:
        additional = {name: values[:_EXAMPLES] for name, values in batch["unlabeled"].items()}
        rows.append(_rows(additional, config.data.cutout))
    columns = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    legend = class_legend(np.unique(columns["labels"]), info.palette, info.class_names)
    return picture_grid({**columns, "labels": colorize(columns["labels"], info.palette)}, legend=legend)


def _rows(examples: Mapping[str, tf.Tensor], cutout: int | None = None) -> dict[str, UInt8]:
    """The pictures of examples of one stream, [B, H, W, 3] each, and their labels; no ``cutout``: labeled ones."""
    weak, valid = examples["image"], examples["valid"]
    if cutout is None:
        strong = tf.fill(tf.shape(weak), 255)
    else:
        draws = color.StrongDraws(examples["jitter"], examples["order"], examples["cutout_center"])
        strong, valid = color.strong_view(tf.cast(weak, tf.float32), valid, draws, cutout)
    counts = tf.repeat(255 * tf.cast(valid, tf.int32)[..., tf.newaxis], 3, axis=-1)
    shown = {
        "weak view": weak,
        "strong view": strong,
        "pixels that count": counts,
        "labels": examples["labels"],
    }
    return {name: np.rint(values.numpy()).clip(0, 255).astype(np.uint8) for name, values in shown.items()}
