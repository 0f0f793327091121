"""What shows only after many steps: drift in 16 bits, memory that grows."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_optimizer
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.trainer import Trainer
from tests.folder import draw_folder, small_config


def _trainer(config: Config) -> Trainer:
    sources = open_sources(config.data, config.train.mode)
    model = create_model(config, sources.info)
    optimizer = create_optimizer(config.train, config.runtime.precision)
    optimizer.build(model.trainable_variables)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    trainer = Trainer(config, model, optimizer, strategy, sources)
    trainer.start_at(0)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_learn_as_float32_does(tmp_path: Path, precision: str) -> None:
    draw_folder(tmp_path / "data")
    # Whole pictures at a low rate: else batch norm over few cells and large steps make any rounding grow, and runs that
    # differ in it part by several percent either way.
    changes = ["data.min_scale=1", "data.max_scale=1", "data.crop_size=49,65", "train.learning_rate=0.002"]
    config = config_io.apply_overrides(
        small_config(tmp_path / "data", "supervised", steps=100),
        ["model.aspp_keep_prob=1", "data.batch_labeled=6", *changes],
    )
    losses = []
    for kind in ("float32", precision):
        trainer = _trainer(config_io.apply_overrides(config, [f"runtime.precision={kind}"]))
        first = trainer.train(tf.constant(10))["loss/total"]
        trainer.train(tf.constant(30))
        trainer.begin_interval()
        losses.append(trainer.train(tf.constant(10))["loss/total"])
        assert losses[-1] < 0.8 * first  # It does learn.
    assert losses[1] == pytest.approx(losses[0], rel=0.005)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data")
    trainer = _trainer(small_config(tmp_path / "data", "supervised", steps=4000))
    trainer.train(tf.constant(200))
    before = psutil.Process().memory_info().rss
    for _ in range(9):
        trainer.train(tf.constant(200))
    # A float32 image of 33x33 that stayed behind in each step would make 23 MB.
    assert psutil.Process().memory_info().rss - before < 16 << 20
