"""The training loop: orbit around the steps of ``steps.py``, with checkpoints, evaluation and resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orbit
import tensorflow as tf

from pseudoseg_tf import config_io, losses, steps, visualize
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.checkpoint import checkpoint_directory, load_initial_weights
from pseudoseg_tf.config import Config, RuntimeConfig, TrainConfig
from pseudoseg_tf.data import color, pipeline
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import Evaluator
from pseudoseg_tf.files import write_json
from pseudoseg_tf.metrics import SegmentationMetrics
from pseudoseg_tf.nn.layers import resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.optim import (
    Adam,
    Momentum,
    PolynomialDecay,
    SlowStart,
    StepDecay,
    gradient_multipliers,
    ramp_up,
)
from pseudoseg_tf.records import Console, JsonLines, Log

Examples = Mapping[str, tf.Tensor]

# Images in the picture panels.
_PANEL_IMAGES = 4


def train(config: Config, run_dir: str, log: Log = print, preset: str = "") -> dict[str, dict[str, Any]]:
    """Trains, evaluates on the way, and keeps the last and the best checkpoint.

    A second call with the same configuration and directory continues where the first stopped.

    Args:
        config: the whole run; see ``presets``.
        run_dir: directory of the run, made if absent.
        log: takes each line meant for a person.
        preset: name of the preset, for the record.

    Returns:
        {"last": metrics, "best": metrics} of the last and the best evaluation (by mIoU): "step", "miou",
        "pixel_accuracy", "ece", "iou" and "images".

    Raises:
        UserError: anything wrong in the configuration, the data or the directory.
    """
    strategy = create_strategy(config.runtime)
    sources = open_sources(config.data, config.train.mode)
    config_io.validate_for_classes(config, sources.info.num_classes)
    for note in sources.notes:
        log(note)
    begun = tf.train.latest_checkpoint(checkpoint_directory(run_dir, "last")) is not None
    with strategy.scope():
        model = create_model(config, sources.info, None if begun else log)
        optimizer = create_optimizer(config.train)
        optimizer.build(model.trainable_variables)
        best_miou = tf.Variable(-1.0, trainable=False, dtype=tf.float64, name="best_miou")
    # Not before the first weights are there: a run that could not begin must not claim the directory.
    config_io.save(run_dir, preset, config)
    write_json(os.path.join(run_dir, "dataset.json"), sources.info.to_json())
    step = optimizer.iterations
    saved = tf.train.Checkpoint(step=step, model=model, optimizer=optimizer, best_miou=best_miou)
    last = tf.train.CheckpointManager(saved, checkpoint_directory(run_dir, "last"), config.train.keep)
    best = tf.train.CheckpointManager(saved, checkpoint_directory(run_dir, "best"), max_to_keep=1)
    with strategy.scope():
        if last.restore_or_initialize():
            log(f"continues at step {step.numpy()} from {last.latest_checkpoint}")
    done = int(step.numpy())

    trainer = Trainer(config, model, optimizer, strategy, sources)
    trainer.start_at(done)
    evaluator = Evaluator(
        model,
        pipeline.evaluation_dataset(sources.val, config.data),
        sources.info,
        len(sources.val),
        strategy,
        config.data,
    )
    controller = orbit.Controller(
        trainer=trainer,
        evaluator=evaluator,
        global_step=step,
        strategy=strategy,
        steps_per_loop=config.train.steps,
        summary_dir=os.path.join(run_dir, "summaries", "train"),
        eval_summary_dir=os.path.join(run_dir, "summaries", "val"),
    )
    history = JsonLines(os.path.join(run_dir, "history.jsonl"), done)
    console = Console(config, run_dir, done, log)
    panel = _Panel(config, model, sources, run_dir) if config.train.mode != "supervised" else None
    every, end = config.train, config.train.steps
    if done >= end and not history.entries:
        # A converted checkpoint.
        raise UserError(
            f"{run_dir}: at step {done} of train.steps={end} already, nothing to train; pseudoseg-evaluate "
            "scores it"
        )
    if done >= end:
        log(f"finished already, nothing to train; {_score_line(history.entries[-1])}")
    else:
        additional = f" and {len(sources.unlabeled)} additional" if sources.unlabeled else ""
        log(
            f"{len(sources.labeled)} labeled{additional} images; {end - done} steps, of which the first takes longest"
        )
    while done < end:
        intervals = (every.log_every, every.evaluate_every, every.checkpoint_every, every.pictures_every)
        done = min(end, *(_next_multiple(done, interval) for interval in intervals))
        with _without_output():
            controller.train(done, checkpoint_at_completion=False)
        console.write(done, trainer.averages)
        if panel and (done % every.pictures_every == 0 or done == end):
            panel.write(done, controller.summary_manager)
        if done % every.evaluate_every == 0 or done == end:
            with _without_output():
                controller.evaluate()
            is_best = evaluator.result["miou"] > best_miou.numpy()
            history.add({"step": done, **evaluator.result})
            log(_score_line(history.entries[-1]) + ("  (best so far)" if is_best else ""))
            if is_best:
                best_miou.assign(evaluator.result["miou"])
                best.save(checkpoint_number=done)
        if done % every.checkpoint_every == 0 or done == end:
            last.save(checkpoint_number=done)
    # An input iterator that still reads while Python shuts down can hang it.
    trainer.train_dataset = None
    return {"last": history.entries[-1], "best": max(history.entries, key=lambda entry: entry["miou"])}


def create_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """The distribution strategy of ``runtime.strategy``; also sets the CPU threads.

    Raises:
        UserError: TensorFlow is already running with another number of threads.
    """
    if runtime.threads and runtime.threads != tf.config.threading.get_intra_op_parallelism_threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
            tf.config.threading.set_inter_op_parallelism_threads(runtime.threads)
        except RuntimeError as error:
            raise UserError(
                f"runtime.threads: found {runtime.threads}, but TensorFlow already runs in this process with "
                "another number; set it before anything else uses TensorFlow"
            ) from error
    gpus = tf.config.list_logical_devices("GPU")
    if runtime.strategy == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if runtime.strategy == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
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
    if config.runtime.precision == "bfloat16":
        tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build_model(
            info.num_classes,
            background=info.has_background,
            **dataclasses.asdict(config.model),
            seed=config.train.seed,
        )
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    if log is not None and config.init.weights:
        log(load_initial_weights(model, config.init.weights, config.init.last_layers))
    return model


def create_optimizer(train: TrainConfig) -> Momentum | Adam:
    """The optimizer of a configuration, without its variables; call it in the strategy's scope."""
    if train.optimizer == "adam":
        return Adam(train.adam_learning_rate, epsilon=train.adam_epsilon)
    return Momentum(create_schedule(train), train.momentum)


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


def model_gradient_multipliers(model: PseudoSegModel, train: TrainConfig) -> list[float]:
    """Factors on the gradients of the model's trainable variables, in their order."""
    return gradient_multipliers(
        model.trainable_variables,
        model.backbone.trainable_variables,
        train.backbone_multiplier,
        [*model.head.decoder.logits.trainable_variables, *model.classifier.trainable_variables],
        train.last_layer_multiplier,
    )


class Trainer(orbit.StandardTrainer):
    """Runs steps on all replicas.

    Attributes:
        averages: of the latest inner loop: losses, learning rate and, where masks of the additional images
            are known, how good the pseudo labels were.
    """

    def __init__(
        self,
        config: Config,
        model: PseudoSegModel,
        optimizer: Momentum | Adam,
        strategy: tf.distribute.Strategy,
        sources: Sources,
    ):
        super().__init__(train_dataset=None)
        self._config = config
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._sources = sources
        self._across_replicas = _replica_sum if strategy.num_replicas_in_sync > 1 else steps.one_replica
        self._variables = model.trainable_variables
        self._multipliers = model_gradient_multipliers(model, config.train)
        unlabeled = config.train.mode != "supervised"
        names = ["total", "supervised", "decay"]
        names += ["consistency", "classification", "attention"] if unlabeled else []
        with strategy.scope():
            self._losses = {name: tf_keras.metrics.Sum(name) for name in names}
            # How good the pseudo labels are, where masks of the additional images are known (never learned).
            watched = unlabeled and sources.unlabeled is not None and sources.unlabeled.has_masks
            maps = ("pseudo", "decoder", "sgc") if config.pseudo.use_attention else ("pseudo", "decoder")
            self._pseudo_metrics = (
                {name: SegmentationMetrics(sources.info.num_classes) for name in maps} if watched else {}
            )
        self._replica_step = tf.function(self._step, jit_compile=True) if config.runtime.jit else self._step

    def start_at(self, step: int) -> None:
        """Makes the input pipeline begin with the batch of ``step``."""
        self.train_dataset = self._strategy.distribute_datasets_from_function(
            lambda context: pipeline.training_dataset(
                self._sources, self._config.data, self._config.train.mode, step, context
            )
        )

    def train_loop_begin(self) -> None:
        self._first_step = int(self._optimizer.iterations.numpy())
        with self._strategy.scope():
            for total in self._losses.values():
                total.reset_state()
            for metrics in self._pseudo_metrics.values():
                metrics.reset()

    def train_step(self, iterator: Iterator[Any]) -> None:
        self._strategy.run(self._replica_step, args=(next(iterator),))

    def train_loop_end(self) -> dict[str, float]:
        step = int(self._optimizer.iterations.numpy())
        result = {
            f"loss/{name}": float(metric.result()) / (step - self._first_step)
            for name, metric in self._losses.items()
        }
        if not all(math.isfinite(value) for value in result.values()):
            terms = ", ".join(f"{name} {value:g}" for name, value in result.items())
            rate = "adam_learning_rate" if self._config.train.optimizer == "adam" else "learning_rate"
            raise UserError(
                f"the loss is not finite between step {self._first_step} and {step} ({terms}); "
                f"try a smaller train.{rate}, or look for damaged images"
            )
        result["learning_rate"] = float(self._optimizer.learning_rate.numpy())
        for name, metrics in self._pseudo_metrics.items():
            if metrics.is_empty():
                continue
            scores = metrics.result(self._sources.info.class_names)
            result |= {f"{name}/{key}": scores[key] for key in ("miou", "pixel_accuracy", "ece")}
        self.averages = result
        return result

    def _step(self, batch: Mapping[str, Examples]) -> None:
        """One optimizer step on this replica's share of the batch."""
        train, pseudo = self._config.train, self._config.pseudo
        weights = steps.LossWeights(
            consistency=pseudo.weight * ramp_up(self._optimizer.iterations, pseudo.ramp_steps),
            classification=train.classification_weight,
            attention=train.attention_weight,
            decay=train.weight_decay,
        )
        pixels = pixel_loss_options(train, self._optimizer.iterations)
        labeled = labeled_batch(self._model, batch["labeled"])
        with tf.GradientTape() as tape:
            if train.mode == "supervised":
                terms = steps.supervised_losses(self._model, labeled, weights, self._across_replicas, pixels)
            else:
                additional = additional_batch(self._model, batch["unlabeled"], self._config.data.cutout)
                terms, branch = steps.pseudoseg_losses(
                    self._model,
                    labeled,
                    additional,
                    weakly=train.mode == "weakly",
                    options=pseudo_label_options(self._config),
                    weights=weights,
                    across_replicas=self._across_replicas,
                    pixels=pixels,
                )
        gradients = tape.gradient(terms["total"], self._variables)
        # The shares of the replicas add up to the gradient of the global batch; the optimizer sums them.
        self._optimizer.apply_gradients(
            [
                (gradient * multiplier, variable)
                for gradient, multiplier, variable in zip(
                    gradients, self._multipliers, self._variables, strict=True
                )
                if gradient is not None
            ]
        )
        for name, metric in self._losses.items():
            metric.update_state(terms[name])
        if self._pseudo_metrics:
            size = tf.shape(branch.decoder_logits)[1:3]
            labels = tf.where(additional["valid"] > 0, batch["unlabeled"]["labels"], IGNORE_LABEL)
            labels = resize_mask(labels, size)
            probabilities = {
                "pseudo": branch.pseudo_label,
                "decoder": tf.nn.softmax(branch.decoder_logits),
                "sgc": tf.nn.softmax(branch.sgc_logits),
            }
            for name, metrics in self._pseudo_metrics.items():
                metrics.update(labels, probabilities[name])


def labeled_batch(model: PseudoSegModel, examples: Examples) -> steps.LabeledBatch:
    """Normalizes the labeled stream of the pipeline for the step."""
    images = model.normalize(tf.cast(examples["image"], tf.float32), examples["valid"])
    return steps.LabeledBatch(image=images, labels=examples["labels"], valid=examples["valid"])


def additional_batch(model: PseudoSegModel, examples: Examples, cutout: int) -> steps.AdditionalBatch:
    """Makes both views of the additional stream: the strong one jittered and cut out, both normalized.

    Image-level labels that are not given are read off the pixel labels of the cut-out crop, as in the
    reference.
    """
    images = tf.cast(examples["image"], tf.float32)
    draws = color.StrongDraws(examples["jitter"], examples["order"], examples["cutout_center"])
    strong, valid = color.strong_view(images, examples["valid"], draws, cutout)
    seen = tf.where(valid > 0, examples["labels"], IGNORE_LABEL)
    given = examples["image_labels"]
    shown = losses.image_labels_of(seen, model.num_classes, model.has_background)
    return steps.AdditionalBatch(
        weak=model.normalize(images, examples["valid"]),
        strong=model.normalize(strong, valid),
        valid=valid,
        image_labels=tf.where(given >= 0.0, given, shown),
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


def _replica_sum(x: tf.Tensor) -> tf.Tensor:
    replica = tf.distribute.get_replica_context()
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, x)


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Swallows what orbit prints: every output in full; the console lines say it shorter."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _score_line(entry: Mapping[str, Any]) -> str:
    miou, accuracy, ece = (100 * entry[name] for name in ("miou", "pixel_accuracy", "ece"))
    return f"step {entry['step']}: validation mIoU {miou:.2f}  pixel accuracy {accuracy:.2f}  ECE {ece:.2f}"


class _Panel:
    """Pictures of the pseudo labels of the same few images at each time, as PNG and in TensorBoard."""

    def __init__(self, config: Config, model: PseudoSegModel, sources: Sources, run_dir: str):
        self._config = config
        self._model = model
        self._info: DatasetInfo = sources.info
        self._directory = os.path.join(run_dir, "pictures")
        data = dataclasses.replace(config.data, batch_labeled=1, batch_unlabeled=_PANEL_IMAGES)
        batch = next(iter(pipeline.training_dataset(sources, data, config.train.mode, 0)))
        self._examples = batch["unlabeled"]

    def write(self, step: int, summaries: orbit.utils.SummaryManager) -> None:
        additional, branch = self._pseudo_labels()
        picture = visualize.pseudo_label_panel(
            weak=self._pixels(additional["weak"]),
            strong=self._pixels(additional["strong"]),
            cam=branch.cam.numpy(),
            sgc=branch.sgc_logits.numpy(),
            decoder=branch.decoder_logits.numpy(),
            pseudo=branch.pseudo_label.numpy(),
            labels=self._examples["labels"].numpy(),
            class_names=self._info.class_names,
            palette=self._info.palette,
        )
        os.makedirs(self._directory, exist_ok=True)
        visualize.save_image(os.path.join(self._directory, f"step-{step:08d}.png"), picture)
        with summaries.summary_writer().as_default():
            tf.summary.image("pseudo_labels", picture[np.newaxis], step=step)

    @tf.function
    def _pseudo_labels(self) -> tuple[steps.AdditionalBatch, steps.WeakBranch]:
        additional = additional_batch(self._model, self._examples, self._config.data.cutout)
        features = self._model.features(additional["weak"], training=False)
        branch = steps.weak_branch(
            self._model,
            features,
            features,
            additional["valid"],
            image_labels=additional["image_labels"] if self._config.train.mode == "weakly" else None,
            options=pseudo_label_options(self._config),
            training=False,
        )
        return additional, branch

    def _pixels(self, normalized: tf.Tensor) -> np.ndarray:
        """Normalized images back to uint8."""
        return np.clip(self._model.denormalize(normalized).numpy(), 0, 255).astype(np.uint8)
