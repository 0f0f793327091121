"""pseudoseg-train with a small network, and with NaN in the labeled examples whose numbers TORTURE_NAN names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from pseudoseg_tf import trainer
from pseudoseg_tf.cli import train as program
from pseudoseg_tf.nn import model
from tests.tiny import TinyBackbone


def spoil(numbers: list[int]) -> None:
    """Puts NaN into the pixels of labeled examples."""
    labeled_batch = trainer.labeled_batch

    def spoiled(network: Any, examples: Mapping[str, tf.Tensor]) -> Any:
        batch = labeled_batch(network, examples)
        hit = tf.reduce_any(examples["counter"][:, tf.newaxis] == tf.constant(numbers, tf.int64), axis=1)
        image = tf.where(hit[:, tf.newaxis, tf.newaxis, tf.newaxis], float("nan"), batch["image"])
        return {**batch, "image": image}

    trainer.labeled_batch = spoiled


if __name__ == "__main__":
    model.MobileNetV1 = TinyBackbone  # type: ignore[assignment, misc]
    if "TORTURE_NAN" in os.environ:
        spoil([int(number) for number in os.environ["TORTURE_NAN"].split(",")])
    program.run()
