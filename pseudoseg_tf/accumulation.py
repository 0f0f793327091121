"""Gradient accumulation: a step whose batch is taken in several parts, one after the other.

A part is a batch in its own right to batch norm, dropout, the joint Norm of equation 4 and the choice of the hardest
pixels. The losses are means over the whole batch all the same: the terms of a part count by its share of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from pseudoseg_tf.losses import PixelLossOptions, labeled_pixels
from pseudoseg_tf.nn.layers import resize_mask
from pseudoseg_tf.pseudo_label import AcrossReplicas
from pseudoseg_tf.steps import LossWeights


def part_of(batch: Any, number: tf.Tensor, parts: int) -> Any:
    """Part ``number`` of 0 to ``parts`` - 1 of every tensor [B, ...] of a nested batch, [B / parts, ...]."""

    def cut(x: tf.Tensor) -> tf.Tensor:
        size, *rest = x.shape
        return tf.reshape(x, [parts, size // parts, *rest])[number]

    return tf.nest.map_structure(cut, batch)


def part_weights(
    weights: LossWeights,
    labels: tf.Tensor,
    valid: tf.Tensor | None,
    number: tf.Tensor,
    parts: int,
    *,
    sizes: Mapping[str, tuple[int, int]],
    pixels: PixelLossOptions,
    across_replicas: AcrossReplicas,
) -> LossWeights:
    """The factors of the terms of one part, such that those of all parts add up to the terms of the batch.

    Args:
        labels: [B, H, W], of the labeled images of the whole batch of this replica.
        valid: [B, H, W], of its additional images; None: there are none.
        sizes: heights and widths of the logits "supervised", "attention" and "consistency".
        pixels: as for the losses. Of the hardest pixels every part has as many.
    """

    def share(counted: tf.Tensor) -> tf.Tensor:
        by_part = across_replicas(tf.reduce_sum(tf.reshape(counted, [parts, -1]), 1))
        return tf.math.divide_no_nan(by_part[number], tf.reduce_sum(by_part))

    equal = 1.0 / parts
    shares = dict.fromkeys(LossWeights._fields, equal)
    if not tf.is_tensor(pixels.hardest) and pixels.hardest == 1.0:
        for name in ("supervised", "attention"):
            shares[name] = share(labeled_pixels(labels, sizes[name], pixels))
    if valid is not None:
        shares["consistency"] = share(resize_mask(tf.cast(valid, tf.float32), sizes["consistency"]))
    return LossWeights(**{name: weight * shares[name] for name, weight in weights._asdict().items()})


class GradientAccumulator(tf.Module):
    """Adds up the gradients of the parts, on each replica its own; make it in the strategy's scope."""

    def __init__(self, variables: Sequence[tf.Variable]):
        super().__init__()
        self._sums = [
            tf.Variable(
                tf.zeros(variable.shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
                name="gradient_sum",
            )
            for variable in variables
        ]
        self._reached: set[int] = set()

    def add(self, gradients: Sequence[tf.Tensor | None]) -> None:
        """Adds the gradients of a part; None for a variable that no loss depends on."""
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                # The same in every part, since it is the program that decides.
                self._reached.add(index)
                self._sums[index].assign_add(gradient)

    def take(self) -> list[tf.Tensor | None]:
        """Returns the sums, and begins again at zero."""
        values = [
            tf.identity(each) if index in self._reached else None for index, each in enumerate(self._sums)
        ]
        with tf.control_dependencies([value for value in values if value is not None]):
            for index in self._reached:
                self._sums[index].assign(tf.zeros(self._sums[index].shape))
        return values
