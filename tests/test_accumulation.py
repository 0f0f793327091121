"""A step in parts is the step of the whole batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.accumulation import GradientAccumulator, part_of, part_weights
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.config import Config
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.finite_watch import NonFiniteStep
from pseudoseg_tf.losses import PixelLossOptions
from pseudoseg_tf.optim import Momentum
from pseudoseg_tf.pseudo_label import one_replica
from pseudoseg_tf.steps import LossWeights
from pseudoseg_tf.trainer import Trainer
from tests.folder import draw_folder, small_config

_ONE_DEVICE = tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("folder") / "data"
    draw_folder(root)
    config = small_config(root)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, aspp_keep_prob=1.0))


@pytest.fixture(scope="module")
def sources(config: Config) -> Sources:
    return open_sources(config.data, config.train.mode)


def _trainer(
    config: Config, sources: Sources, optimizer: tf_keras.optimizers.Optimizer | None = None
) -> Trainer:
    model = create_model(config, sources.info)
    optimizer = optimizer or Momentum(0.1, 0.9)
    optimizer.build(model.trainable_variables)
    return Trainer(config, model, optimizer, _ONE_DEVICE, sources)


def test_parts_are_consecutive_examples() -> None:
    batch = {"a": tf.range(6), "b": {"c": tf.reshape(tf.range(12), [6, 2])}}
    part = part_of(batch, tf.constant(1), 3)
    np.testing.assert_array_equal(part["a"], [2, 3])
    np.testing.assert_array_equal(part["b"]["c"], [[4, 5], [6, 7]])


def test_terms_count_by_the_share_of_their_pixels() -> None:
    labels = np.zeros((4, 5, 5), np.uint8)
    labels[0] = 255
    labels[1, 1:] = 255  # 5 labeled pixels in the first part, 50 in the second.
    valid = np.ones((2, 5, 5), np.uint8)
    valid[1, :, 2:] = 0  # At 3x3, of columns 0, 1 and 3: 9 and 6.
    weights = LossWeights(consistency=2.0, decay=0.5)

    def of_part(number: int, pixels: PixelLossOptions) -> LossWeights:
        sizes = dict.fromkeys(("supervised", "attention", "consistency"), (3, 3))
        return part_weights(
            weights,
            tf.constant(labels),
            tf.constant(valid),
            tf.constant(number),
            2,
            sizes=sizes,
            pixels=pixels,
            across_replicas=one_replica,
        )

    first, second = (of_part(number, PixelLossOptions()) for number in (0, 1))
    np.testing.assert_allclose([first.supervised, second.supervised], [1 / 11, 10 / 11], rtol=1e-6)
    np.testing.assert_allclose([first.attention, second.attention], [1 / 11, 10 / 11], rtol=1e-6)
    np.testing.assert_allclose([first.consistency, second.consistency], [2 * 9 / 15, 2 * 6 / 15], rtol=1e-6)
    assert (first.classification, first.decay) == (second.classification, second.decay) == (0.5, 0.25)
    # Resized to the logits, row 0 of the second image is one of three: 3 of 21 pixels.
    small = of_part(0, PixelLossOptions(upsample_logits=False))
    np.testing.assert_allclose(small.supervised, 3 / 21, rtol=1e-6)
    hardest = of_part(0, PixelLossOptions(hardest=0.5))
    assert (hardest.supervised, hardest.attention) == (0.5, 0.5)


@pytest.mark.parametrize("mode", ["supervised", "unlabeled"])
def test_parts_of_equal_images_make_the_gradient_of_the_whole(
    config: Config, sources: Sources, mode: str
) -> None:
    """Both parts have the same images, so the same batch statistics, and unequal numbers of labeled pixels."""
    # Batch norm over the pooled vectors of fewer images would blow rounding errors up.
    half = dataclasses.replace(config.data, batch_labeled=6, batch_unlabeled=6)
    part = next(iter(pipeline.training_dataset(sources, half, mode, 0)))
    batch = tf.nest.map_structure(lambda x: tf.concat([x, x], 0), part)
    labels = batch["labeled"]["labels"].numpy()
    background = np.argwhere(labels[6:] == 0)
    labels[6:][tuple(background[: 2 * len(background) // 3].T)] = 255
    batch["labeled"]["labels"] = tf.constant(labels)
    assert (labels[:6] != 255).sum() > 1.5 * (labels[6:] != 255).sum()

    data = dataclasses.replace(config.data, batch_labeled=12, batch_unlabeled=12)
    config = dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, mode=mode))
    in_parts = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    whole, parts = _trainer(config, sources), _trainer(in_parts, sources)
    first = [variable.numpy() for variable in whole._variables]
    whole._step(batch)
    for number in range(2):
        parts._part(batch, tf.constant(number))
    parts._apply_parts()
    for name, metric in whole._losses.items():
        np.testing.assert_allclose(parts._losses[name].result(), metric.result(), rtol=1e-3, err_msg=name)
    assert int(parts._optimizer.iterations) == 1
    update, difference = (
        np.array([np.linalg.norm(b - a) for a, b in zip(old, new, strict=True)])
        for old, new in (
            (first, [variable.numpy() for variable in whole._variables]),
            (whole._variables, parts._variables),
        )
    )
    # Batch norm of nearly equal pooled vectors blows rounding up to a hundredth of an update; equal shares in place of
    # those by pixels would change updates by a fifth.
    moved = update > 1e-6
    assert np.median(difference[moved] / update[moved]) < 0.05


def test_sums_begin_again_at_zero_and_know_what_was_not_reached() -> None:
    accumulator = GradientAccumulator([tf.Variable([0.0, 0.0]), tf.Variable(0.0)])
    for _ in range(2):
        accumulator.add([tf.constant([1.0, 2.0]), None])
        accumulator.add([tf.constant([3.0, 4.0]), None])
        values = accumulator.take()
        np.testing.assert_array_equal(values[0], [4.0, 6.0])
        assert values[1] is None


def test_training_takes_the_parts_in_a_graph(config: Config, sources: Sources) -> None:
    overrides = ["train.mode=supervised", "train.accumulate=2"]
    config = config_io.apply_overrides(config, overrides)
    trainer = _trainer(config, sources)
    trainer.start_at(0)
    before = [variable.numpy() for variable in trainer._variables]
    losses = trainer.train(tf.constant(3))
    assert int(trainer._optimizer.iterations) == 3
    # The mean over steps of the sum over parts: fresh logits of three classes cost about log(3) a pixel.
    assert 0.5 < losses["loss/supervised"] < 2
    changed = [np.any(old != new) for old, new in zip(before, trainer._variables, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_batches_must_fall_into_parts(config: Config, sources: Sources) -> None:
    config = config_io.apply_overrides(config, ["train.accumulate=3"])
    with pytest.raises(UserError, match=r"^data.batch_labeled=2 .* train.accumulate=3 .* multiple of 3$"):
        _trainer(config, sources)


@pytest.mark.slow
def test_parts_on_two_replicas(
    config: Config, sources: Sources, two_replicas: tf.distribute.Strategy
) -> None:
    config = config_io.apply_overrides(
        config, ["train.accumulate=2", "data.batch_labeled=4", "data.batch_unlabeled=4"]
    )
    with two_replicas.scope():
        model = create_model(config, sources.info)
        optimizer = Momentum(0.02, 0.9)
        optimizer.build(model.trainable_variables)
    trainer = Trainer(config, model, optimizer, two_replicas, sources)
    trainer.start_at(0)
    trainer.train(tf.constant(2))
    for variable in model.trainable_variables:
        first, second = two_replicas.experimental_local_results(variable)
        np.testing.assert_array_equal(first, second)


def test_an_overflow_in_float16_leaves_the_step_out(config: Config, sources: Sources) -> None:
    config = config_io.apply_overrides(config, ["runtime.precision=float16", "train.mode=supervised"])
    batch = next(iter(pipeline.training_dataset(sources, config.data, config.train.mode, 0)))
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(Momentum(0.1, 0.9), initial_scale=2.0**40)
    trainer = _trainer(config, sources, optimizer)
    before = [variable.numpy() for variable in trainer._variables]
    trainer._step(batch)
    assert float(optimizer.loss_scale) == 2.0**39 and int(optimizer.iterations) == 1
    for old, new in zip(before, trainer._variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # The loss itself is not scaled.
    assert 0.5 < float(trainer._losses["supervised"].result()) < 2
    trainer.check_finite()


def test_a_gradient_in_float16_that_no_scale_makes_finite(config: Config, sources: Sources) -> None:
    """Down to a scale of 1 it is the scale's; then it is the run's."""
    config = config_io.apply_overrides(config, ["runtime.precision=float16", "train.mode=supervised"])
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(Momentum(0.1, 0.9), initial_scale=2.0)
    trainer = _trainer(config, sources, optimizer)
    spoiled = [tf.fill(variable.shape, np.nan) for variable in trainer._variables]
    trainer._apply(spoiled)
    assert float(optimizer.loss_scale) == 1.0
    trainer.check_finite()
    trainer._apply(spoiled)
    with pytest.raises(NonFiniteStep) as error:
        trainer.check_finite()
    assert error.value.step == 1


def test_float16_learns_as_float32_does(config: Config, sources: Sources) -> None:
    config = config_io.apply_overrides(config, ["train.mode=supervised"])
    half = config_io.apply_overrides(config, ["runtime.precision=float16"])
    batch = next(iter(pipeline.training_dataset(sources, config.data, config.train.mode, 0)))
    scaled = tf_keras.mixed_precision.LossScaleOptimizer(Momentum(0.1, 0.9), initial_scale=2.0**8)
    losses = []
    for trainer in (_trainer(config, sources), _trainer(half, sources, scaled)):
        for _ in range(4):
            trainer._step(batch)
        assert {variable.dtype for variable in trainer._variables} == {tf.float32}
        losses.append(float(trainer._losses["supervised"].result()) / 4)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
