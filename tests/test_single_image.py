"""A run is told where batch norm sees one image at a time, and what that does is so."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.presets import PRESETS, preset
from pseudoseg_tf.single_image import single_image_notes


def of(replicas: int, *overrides: str) -> list[str]:
    return single_image_notes(config_io.apply_overrides(Config(), overrides), replicas)


@pytest.mark.parametrize(
    ("replicas", "overrides", "found", "cure"),
    [
        (1, ["data.batch_labeled=1"], "data.batch_labeled=1: ", "a larger batch"),
        (
            1,
            ["data.batch_labeled=4", "data.batch_unlabeled=4", "train.accumulate=4"],
            "data.batch_labeled=4 and data.batch_unlabeled=4 with train.accumulate=4: ",
            "a larger batch or a smaller train.accumulate",
        ),
        (
            4,
            ["data.batch_labeled=8", "data.batch_unlabeled=16", "train.accumulate=2"],
            "data.batch_labeled=8 with train.accumulate=2 and 4 devices: ",
            "a larger batch or a smaller train.accumulate or model.synchronized_batch_norm=true",
        ),
        (
            2,
            ["data.batch_labeled=2", "data.batch_unlabeled=8"],
            "data.batch_labeled=2 with 2 devices: ",
            "a larger batch or model.synchronized_batch_norm=true",
        ),
    ],
)
def test_one_image_at_a_time_is_named(replicas: int, overrides: list[str], found: str, cure: str) -> None:
    (note,) = of(replicas, *overrides)
    assert note.startswith(found) and note.endswith(f"choose {cure}")


@pytest.mark.parametrize(
    ("replicas", "overrides"),
    [
        (1, []),
        (1, ["train.mode=supervised", "data.batch_unlabeled=1"]),
        (2, ["data.batch_labeled=2", "data.batch_unlabeled=2", "model.synchronized_batch_norm=true"]),
        (1, ["data.batch_labeled=8", "data.batch_unlabeled=8", "train.accumulate=4"]),
    ],
)
def test_two_images_and_more_need_no_word(replicas: int, overrides: list[str]) -> None:
    assert of(replicas, *overrides) == []


@pytest.mark.parametrize("name", PRESETS)
def test_presets_on_one_device_need_no_word(name: str) -> None:
    assert single_image_notes(preset(name), replicas=1) == []


def test_image_pooling_of_a_single_image_is_the_same_for_all() -> None:
    """And its moving variance decays: by half with each pass."""
    model = build_model(3, width_multiplier=0.25, aspp_channels=4, decoder_channels=4, batch_norm_decay=0.5)
    pooling = model.head.aspp.image_pooling
    channels = model.features(tf.zeros([1, 33, 33, 3]), training=False).last.shape[-1]
    for seed in range(3):
        pooled = tf.random.stateless_uniform([1, 1, 1, channels], [0, seed])
        np.testing.assert_allclose(pooling(pooled, training=True), np.zeros([1, 1, 1, 4]), atol=1e-6)
    variance = next(v for v in pooling.variables if "moving_variance" in v.name)
    np.testing.assert_allclose(variance, np.full(4, 0.125), rtol=1e-6)
