"""From a configuration to what it names: strategy, model, optimizer, schedule, options of the step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from pseudoseg_tf import losses, steps
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.checkpoint import load_initial_weights
from pseudoseg_tf.config import Config, RuntimeConfig, TrainConfig
from pseudoseg_tf.data.specs import DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.optim import (
    Adam,
    Momentum,
    PolynomialDecay,
    SlowStart,
    StepDecay,
    gradient_multipliers,
)
from pseudoseg_tf.records import Log
from pseudoseg_tf.workers import check_cluster

# Momentum or Adam, for float16 inside a LossScaleOptimizer; tf_keras has no type hints.
Optimizer = Any


def create_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """The distribution strategy of ``runtime.strategy``; also sets the CPU threads, and op determinism if asked for.

    Raises:
        UserError: TensorFlow is already running with another number of threads; the environment does not say who
            the workers are; there is no such TPU.
    """
    if runtime.deterministic:
        # All draws of a run have seeds of their own. This is for those of libraries, which determinism wants seeded.
        tf.random.set_seed(0)
        tf.config.experimental.enable_op_determinism()
    if runtime.threads and runtime.threads != tf.config.threading.get_intra_op_parallelism_threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
            tf.config.threading.set_inter_op_parallelism_threads(runtime.threads)
        except RuntimeError as error:
            raise UserError(
                f"runtime.threads: found {runtime.threads}, but TensorFlow already runs in this process with "
                "another number; set it before anything else uses TensorFlow"
            ) from error
    if runtime.strategy == "multi_worker":
        check_cluster()
        # Before anything asks for the devices: it is what makes them.
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if runtime.strategy == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(runtime.tpu or None)
        except (ValueError, tf.errors.NotFoundError) as error:
            raise UserError(
                f"runtime.tpu: found {runtime.tpu!r}, where TensorFlow finds no TPU ({str(error).splitlines()[0]}); "
                "must be local on a TPU VM, or the name or address grpc://HOST:8470 of a TPU"
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    if runtime.strategy == "mirrored" or (runtime.strategy == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored_strategy(tuple(device.name for device in devices))
    return tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")


@functools.cache
def _mirrored_strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One object for all runs of a process: a second one would number its collectives as the first did, and
    TensorFlow would take one for the other."""
    return tf.distribute.MirroredStrategy(devices)


def create_model(config: Config, info: DatasetInfo, log: Log | None = None) -> PseudoSegModel:
    """The model of a configuration with its first weights; call it in the strategy's scope.

    Args:
        log: takes one line on the first weights that were loaded; None: a checkpoint will follow, load none.
    """
    before = tf_keras.mixed_precision.global_policy()
    if config.runtime.precision != "float32":
        tf_keras.mixed_precision.set_global_policy(f"mixed_{config.runtime.precision}")
    try:
        model = build_model(
            info.num_classes,
            background=info.has_background,
            **dataclasses.asdict(config.model),
            rematerialize=config.runtime.rematerialize,
            seed=config.train.seed,
        )
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    if log is not None and config.init.weights:
        log(load_initial_weights(model, config.init.weights, config.init.last_layers))
    return model


def create_optimizer(train: TrainConfig, precision: str = "float32") -> Optimizer:
    """The optimizer of a configuration, without its variables; call it in the strategy's scope.

    With float16, whose range gradients leave at both ends, it scales losses: by as much as goes without overflow, a
    step that does overflow being left out. A checkpoint of it serves any precision.
    """
    optimizer: Optimizer
    if train.optimizer == "adam":
        optimizer = Adam(train.adam_learning_rate, epsilon=train.adam_epsilon)
    else:
        optimizer = Momentum(create_schedule(train), train.momentum)
    return tf_keras.mixed_precision.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def create_schedule(train: TrainConfig) -> PolynomialDecay | StepDecay | SlowStart:
    """The learning rate of a configuration's momentum optimizer, as a function of the step."""
    schedule: PolynomialDecay | StepDecay
    if train.learning_policy == "step":
        schedule = StepDecay(train.learning_rate, train.step_decay_factor, train.step_decay_every)
    else:
        total = train.decay_steps or train.steps - train.slow_start_steps
        schedule = PolynomialDecay(train.learning_rate, total, train.power, train.end_learning_rate)
    if train.slow_start_steps:
        return SlowStart(schedule, train.slow_start_steps, train.slow_start_learning_rate)
    return schedule


def learning_rate(train: TrainConfig, step: int) -> float:
    """What the optimizer of a configuration multiplies with at a step, counted from 0."""
    return train.adam_learning_rate if train.optimizer == "adam" else float(create_schedule(train)(step))


def model_gradient_multipliers(model: PseudoSegModel, train: TrainConfig) -> list[float]:
    """Factors on the gradients of the model's trainable variables, in their order."""
    return gradient_multipliers(
        model.trainable_variables,
        model.backbone.trainable_variables,
        train.backbone_multiplier,
        [*model.head.decoder.logits.trainable_variables, *model.classifier.trainable_variables],
        train.last_layer_multiplier,
    )


def pseudo_label_options(config: Config) -> steps.PseudoLabelOptions:
    """The options of the step, by name from ``config.pseudo``."""
    names = steps.PseudoLabelOptions._fields
    return steps.PseudoLabelOptions(**{name: getattr(config.pseudo, name) for name in names})


def pixel_loss_options(train: TrainConfig, step: int | tf.Tensor) -> losses.PixelLossOptions:
    """Which pixels count in L_s and L_sa at a step."""
    return losses.PixelLossOptions(
        upsample_logits=train.upsample_logits,
        label_weights=train.label_weights,
        hardest=losses.hardest_part(step, train.top_k_percent_pixels, train.hard_example_mining_step),
    )
