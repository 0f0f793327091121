"""The training loop: orbit around the steps of ``steps.py``, with checkpoints, evaluation and resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import orbit
import tensorflow as tf

from pseudoseg_tf import config_io, losses, steps, visualize
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.accumulation import GradientAccumulator, part_of, part_weights
from pseudoseg_tf.checkpoint import checkpoint_directory, load_initial_weights
from pseudoseg_tf.checkpoint_files import Checkpoints, checkpoint_prefixes
from pseudoseg_tf.config import Config, RuntimeConfig, TrainConfig
from pseudoseg_tf.data import color, pipeline
from pseudoseg_tf.data.bad_examples import BadExamples
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import Evaluator
from pseudoseg_tf.files import write_json
from pseudoseg_tf.finite_watch import FiniteWatch, NonFiniteStep
from pseudoseg_tf.interruption import STOPPED, Interrupted, StopSignals
from pseudoseg_tf.metrics import Reliability, SegmentationMetrics
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
from pseudoseg_tf.reliability_diagram import reliability_figure
from pseudoseg_tf.run_lock import claimed
from pseudoseg_tf.summaries import forget_after
from pseudoseg_tf.workers import Workers

Examples = Mapping[str, tf.Tensor]
# Momentum or Adam, for float16 inside a LossScaleOptimizer; tf_keras has no type hints.
Optimizer = Any

# Images in the picture panels.
_PANEL_IMAGES = 4


def train(config: Config, run_dir: str, log: Log = print, preset: str = "") -> dict[str, dict[str, Any]]:
    """Trains, evaluates on the way, and keeps the last and the best checkpoint.

    A second call with the same configuration and directory continues where the first stopped, as if it had not.
    SIGTERM and SIGINT stop it in good order (see ``interruption``).

    Args:
        config: the whole run; see ``presets``.
        run_dir: directory of the run, made if absent.
        log: takes each line meant for a person.
        preset: name of the preset, for the record.

    Returns:
        {"last": metrics, "best": metrics} of the last and the best evaluation (by mIoU): "step", "miou",
        "pixel_accuracy", "ece", "iou" and "images".

    Raises:
        UserError: anything wrong in the configuration, the data or the directory, or a loss that is not finite.
        Interrupted: a signal has stopped it; a checkpoint of its last step is there.
    """
    with StopSignals() as signals, signals.at_once():
        strategy = create_strategy(config.runtime)
    # Anew: where there are several workers TensorFlow has taken SIGTERM for itself.
    with StopSignals() as signals:
        workers = Workers(strategy, run_dir)
        with claimed(workers.own_dir):
            with signals.at_once():
                run = _Run(config, run_dir, strategy, workers, signals, log, preset)
            try:
                return run.finish()
            finally:
                # An input iterator that still reads while Python shuts down can hang it.
                run.trainer.train_dataset = None


class _Run:
    """A run, from the newest checkpoint in its directory to its end."""

    def __init__(
        self,
        config: Config,
        run_dir: str,
        strategy: tf.distribute.Strategy,
        workers: Workers,
        signals: StopSignals,
        log: Log,
        preset: str,
    ):
        """Opens the data, makes model and optimizer, and claims the directory for this configuration."""
        self._config, self._run_dir, self._log = config, run_dir, log
        self._strategy, self._workers, self._signals = strategy, workers, signals
        sources = open_sources(config.data, config.train.mode)
        config_io.validate_for_classes(config, sources.info.num_classes)
        for note in sources.notes:
            log(note)
        last, best = (checkpoint_directory(run_dir, which) for which in ("last", "best"))
        begun = bool(checkpoint_prefixes(last))
        with strategy.scope():
            model = create_model(config, sources.info, None if begun else log)
            optimizer = create_optimizer(config.train, config.runtime.precision)
            optimizer.build(model.trainable_variables)
        # Not before the first weights are there: a run that could not begin must not claim the directory.
        if workers.is_chief:
            config_io.save(run_dir, preset, config)
            write_json(os.path.join(run_dir, "dataset.json"), sources.info.to_json())
        self._sources, self._step = sources, optimizer.iterations
        # Of several workers one cannot stop alone.
        check = (lambda: None) if workers.several else signals.check
        self._bad_examples = _bad_examples(config, workers.own_dir)
        self.trainer = Trainer(
            config, model, optimizer, strategy, sources, before_step=check, bad_examples=self._bad_examples
        )
        saved = tf.train.Checkpoint(
            step=self._step, model=model, optimizer=optimizer, interval=self.trainer.interval
        )
        self._last = Checkpoints(saved, last, config.train.keep, log, workers.own("checkpoints", "last"))
        self._best = Checkpoints(saved, best, 1, log, workers.own("checkpoints", "best"))
        if begun and not self._last.newest:
            raise UserError(
                f"{last}: none of the checkpoints can be used; restore one from a backup, or begin again in "
                "another run directory"
            )
        self._evaluator = Evaluator(
            model,
            pipeline.evaluation_dataset(sources.val, config.data),
            sources.info,
            len(sources.val),
            strategy,
            config.data,
        )
        self._panel = (
            _Panel(config, model, sources, workers.own_dir, self._bad_examples)
            if config.train.mode != "supervised"
            else None
        )
        self._rollbacks = self._lines("rollbacks.jsonl", math.inf)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Trains to the end; returns what ``train`` does."""
        while True:
            self._return_to_checkpoint()
            try:
                try:
                    return self._train()
                except Interrupted as signal:
                    self._save_and_stop(signal)
            except NonFiniteStep as found:
                self._roll_back(found)

    def _return_to_checkpoint(self) -> None:
        """Brings variables, examples and records to the newest checkpoint, or a new run to its beginning."""
        self.trainer.begin_interval()
        with self._strategy.scope():
            if self._last.newest:
                self._last.restore()
                self._log(f"continues at step {self._step.numpy()} from {self._last.newest}")
            elif self._config.train.on_nonfinite == "rollback":
                self._last.save(0)
        done = self._done
        self.trainer.start_at(done, [entry["step"] - 1 for entry in self._rollbacks.entries])
        self._history = self._lines("history.jsonl", done)
        self._training = self._lines("training.jsonl", done)
        self._console = Console(self._config, self._training, done, self._log)
        summaries = os.path.join(self._workers.own_dir, "summaries")
        forget_after(summaries, done)
        self._controller = orbit.Controller(
            trainer=self.trainer,
            evaluator=self._evaluator,
            global_step=self._step,
            strategy=self._strategy,
            steps_per_loop=self._config.train.steps,
            summary_dir=os.path.join(summaries, "train"),
            eval_summary_dir=os.path.join(summaries, "val"),
        )
        self._forget_lost_best()

    def _train(self) -> dict[str, dict[str, Any]]:
        every, end, done = self._config.train, self._config.train.steps, self._done
        if done >= end and not self._history.entries and not self._training.entries:
            # A converted checkpoint.
            raise UserError(
                f"{self._run_dir}: at step {done} of train.steps={end} already, nothing to train; pseudoseg-evaluate "
                "scores it"
            )
        if done >= end and self._history.last_step == done:
            self._log(f"finished already, nothing to train; {_score_line(self._history.entries[-1])}")
        else:
            sources = self._sources
            additional = f" and {len(sources.unlabeled)} additional" if sources.unlabeled else ""
            self._log(
                f"{len(sources.labeled)} labeled{additional} images; {end - done} steps, of which "
                "the first takes longest"
            )
        # Where a run was stopped after the last step before an evaluation, that is still to be done.
        if self._training.entries and self._training.last_step == done:
            self._evaluate_and_save(done)
        while done < end:
            if self._workers.several and self._workers.any(bool(self._signals.received)):
                raise Interrupted(f"{STOPPED} {self._signals.received or 'a signal to another worker'}")
            intervals = (every.log_every, every.evaluate_every, every.checkpoint_every, every.pictures_every)
            done = min(end, *(_next_multiple(done, interval) for interval in intervals))
            with _without_output():
                self._controller.train(done, checkpoint_at_completion=False)
            rate = self._console.write(done, self.trainer.averages)
            if rate is not None:
                with self._controller.summary_manager.summary_writer().as_default():
                    tf.summary.scalar("images_per_second", rate, step=done)
            if self._bad_examples:
                self._bad_examples.report(self._log)
            if self._panel and (done % every.pictures_every == 0 or done == end):
                self._panel.write(done, self.trainer.reliability, self._controller.summary_manager)
            self.trainer.begin_interval()
            self._evaluate_and_save(done)
        entries = self._history.entries
        return {"last": entries[-1], "best": max(entries, key=lambda entry: entry["miou"])}

    def _evaluate_and_save(self, done: int) -> None:
        """Whatever of this is due after ``done`` steps and has not been done yet."""
        every = self._config.train
        due = done % every.evaluate_every == 0 or done == every.steps
        if due and self._history.last_step < done:
            # It can be broken off, and done again when the run continues.
            with self._breakable(), _without_output():
                self._controller.evaluate()
            is_best = self._evaluator.result["miou"] > self._best_miou
            self._history.add({"step": done, **self._evaluator.result})
            self._log(_score_line(self._history.entries[-1]) + ("  (best so far)" if is_best else ""))
        is_best = self._best_step == done
        # First the one that the run continues from: then the best is never one that the history lacks.
        if is_best or done % every.checkpoint_every == 0 or done == every.steps:
            self._last.save(done)
        if is_best:
            self._best.save(done)

    def _save_and_stop(self, signal: Interrupted) -> NoReturn:
        self.trainer.check_finite()
        self._last.save(self._done)
        raise Interrupted(
            f"{signal} after step {self._done} of {self._config.train.steps}, saved in {self._last.newest}; the same "
            "command continues"
        ) from signal

    def _roll_back(self, found: NonFiniteStep) -> None:
        """Notes a step that others are to replace, for ``_return_to_checkpoint``; or stops the run.

        Raises:
            UserError: the policy is to fail, or there were as many rollbacks as allowed.
        """
        train, rollbacks = self._config.train, self._rollbacks.entries
        examples = self.trainer.examples_of(found.step)
        rate = learning_rate(train, found.step)
        # As text, for JSON has no NaN.
        terms = {name: f"{value:g}" for name, value in found.losses.items()}
        entry = {"step": found.step + 1, "losses": terms, "learning_rate": rate, "examples": examples}
        shown = [f"{name} {value}" for name, value in terms.items()]
        shown += [f"learning rate {rate:g}"]
        shown += [f"{name} images {', '.join(ids)}" for name, ids in examples.items()]
        what = "loss" if not all(map(math.isfinite, found.losses.values())) else "gradient"
        line = f"the {what} is not finite at step {entry['step']} ({'; '.join(shown)})"
        key = "adam_learning_rate" if train.optimizer == "adam" else "learning_rate"
        advice = f"try a smaller train.{key}, or look for damaged images among these"
        if train.on_nonfinite == "fail":
            raise UserError(f"{line}; {advice}, or go on without them: train.on_nonfinite=rollback")
        if len(rollbacks) >= train.max_rollbacks:
            raise UserError(f"{line}, after {len(rollbacks)} rollbacks (train.max_rollbacks); {advice}")
        self._rollbacks.add(entry)
        self._log(
            f"{line}; back to step {self._last.step}, with other images for that step (rollback {len(rollbacks)} of "
            f"{train.max_rollbacks})"
        )

    def _forget_lost_best(self) -> None:
        """Where the best checkpoint was damaged, evaluations from here on tell which is the best."""
        self._best_counts_from = 0
        lost = self._best_step
        if lost not in (None, self._done, self._best.step):
            self._log(f"the best checkpoint, of step {lost}, is lost; the best from here on will be kept")
            self._best_counts_from = self._done + 1

    def _breakable(self) -> contextlib.AbstractContextManager[None]:
        """Within it a signal stops the run where it is, if that is for this process to decide."""
        return contextlib.nullcontext() if self._workers.several else self._signals.at_once()

    @property
    def _best_entry(self) -> Mapping[str, Any] | None:
        counted = [entry for entry in self._history.entries if entry["step"] >= self._best_counts_from]
        return max(counted, key=lambda entry: entry["miou"], default=None)

    @property
    def _best_step(self) -> int | None:
        return self._best_entry["step"] if self._best_entry else None

    @property
    def _best_miou(self) -> float:
        return self._best_entry["miou"] if self._best_entry else -1.0

    @property
    def _done(self) -> int:
        return int(self._step.numpy())

    def _lines(self, name: str, step: float) -> JsonLines:
        return JsonLines(os.path.join(self._run_dir, name), step, self._workers.own(name))


def _bad_examples(config: Config, run_dir: str) -> BadExamples | None:
    """Where examples that cannot be used are listed; None: they stop the run."""
    if config.data.on_bad_example == "fail":
        return None
    return BadExamples(os.path.join(run_dir, "bad_examples.txt"), config.data.max_bad_examples)


def create_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """The distribution strategy of ``runtime.strategy``; also sets the CPU threads, and op determinism if asked for.

    Raises:
        UserError: TensorFlow is already running with another number of threads.
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
        # Before anything asks for the devices: it is what makes them.
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if runtime.strategy == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(runtime.tpu or None)
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


class Trainer(orbit.StandardTrainer):
    """Runs steps on all replicas.

    Attributes:
        averages: since ``begin_interval``, as of the latest inner loop: losses, learning rate and, where masks of the
            additional images are known, how good the pseudo labels were.
        interval: what these are made of; part of a checkpoint, so that a run stopped within an interval goes on.
    """

    def __init__(
        self,
        config: Config,
        model: PseudoSegModel,
        optimizer: Optimizer,
        strategy: tf.distribute.Strategy,
        sources: Sources,
        before_step: Callable[[], None] = lambda: None,
        bad_examples: BadExamples | None = None,
    ):
        """Makes what the steps add to; ``before_step`` may raise, which ends a loop of steps."""
        super().__init__(train_dataset=None)
        self._before_step = before_step
        self._redrawn: Sequence[int] = ()
        self._bad_examples = bad_examples
        self._config = config
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._sources = sources
        self._across_replicas = _replica_sum if strategy.num_replicas_in_sync > 1 else steps.one_replica
        self._variables = model.trainable_variables
        self._scales_losses = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
        self._multipliers = model_gradient_multipliers(model, config.train)
        unlabeled = config.train.mode != "supervised"
        names = ["total", "supervised", "decay"]
        names += ["consistency", "classification", "attention"] if unlabeled else []
        with strategy.scope():
            self._losses = {name: tf_keras.metrics.Sum(name) for name in names}
            self._steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="steps")
            self._watch = FiniteWatch(names)
            # How good the pseudo labels are, where masks of the additional images are known (never learned).
            watched = unlabeled and sources.unlabeled is not None and sources.unlabeled.has_masks
            maps = ("pseudo", "decoder", "sgc") if config.pseudo.use_attention else ("pseudo", "decoder")
            self._pseudo_metrics = (
                {name: SegmentationMetrics(sources.info.num_classes) for name in maps} if watched else {}
            )
            self._accumulator = GradientAccumulator(self._variables) if config.train.accumulate > 1 else None
        self.interval = tf.train.Checkpoint(
            steps=self._steps, losses=self._losses, pseudo_labels=self._pseudo_metrics
        )
        self._replica_step = self._prepared(self._step)
        self._replica_part = self._prepared(self._part)
        self._replica_apply = self._prepared(self._apply_parts)
        shares = strategy.num_replicas_in_sync * config.train.accumulate
        for name in ("batch_labeled", *(["batch_unlabeled"] if unlabeled else [])):
            size = getattr(config.data, name)
            if size % shares:
                raise UserError(
                    f"data.{name}={size} cannot be shared by {strategy.num_replicas_in_sync} replicas in "
                    f"train.accumulate={config.train.accumulate} parts: choose a multiple of {shares}"
                )

    def start_at(self, step: int, redrawn: Sequence[int] = ()) -> None:
        """Makes the input pipeline begin with the batch of ``step``; ``redrawn`` as in ``training_dataset``."""
        self._redrawn = tuple(redrawn)
        self.train_dataset = self._strategy.distribute_datasets_from_function(
            lambda context: pipeline.training_dataset(
                self._sources,
                self._config.data,
                self._config.train.mode,
                step,
                context,
                self._redrawn,
                self._bad_examples,
            )
        )

    def examples_of(self, step: int) -> dict[str, list[str]]:
        """The ids of the images of a step, by stream."""
        streams = {"labeled": self._sources.labeled, "unlabeled": self._sources.unlabeled}
        return {
            name: pipeline.example_ids(source, self._config.data, name, step, self._redrawn)
            for name, source in streams.items()
            if source is not None
        }

    def begin_interval(self) -> None:
        """Forgets the steps so far, for the next averages."""
        with self._strategy.scope():
            for total in self._losses.values():
                total.reset_state()
            for metrics in self._pseudo_metrics.values():
                metrics.reset()
            self._steps.assign(0)
            self._watch.reset()

    def check_finite(self) -> None:
        """Raises NonFiniteStep if a loss or gradient was not finite since ``begin_interval``."""
        with self._strategy.scope():
            self._watch.check()

    def create_train_loop_fn(self) -> Callable[[Iterator[Any], tf.Tensor], None]:
        """A loop on the host, where signals arrive; on TPUs one in the graph, where steps are not waited for."""
        if isinstance(self._strategy, tf.distribute.TPUStrategy):
            return super().create_train_loop_fn()
        step = tf.function(self.train_step)

        def loop(iterator: Iterator[Any], num_steps: tf.Tensor) -> None:
            for _ in range(int(num_steps)):
                self._before_step()
                step(iterator)

        return loop

    def train_step(self, iterator: Iterator[Any]) -> None:
        batch = next(iterator)
        if self._accumulator is None:
            self._strategy.run(self._replica_step, args=(batch,))
        else:
            for number in tf.range(self._config.train.accumulate):
                self._strategy.run(self._replica_part, args=(batch, number))
            self._strategy.run(self._replica_apply)
        self._steps.assign_add(1)

    def train_loop_end(self) -> dict[str, float]:
        self.check_finite()
        steps = int(self._steps.numpy())
        result = {f"loss/{name}": float(metric.result()) / steps for name, metric in self._losses.items()}
        result["learning_rate"] = float(self._optimizer.learning_rate.numpy())
        for name, metrics in self._pseudo_metrics.items():
            if metrics.is_empty():
                continue
            scores = metrics.result(self._sources.info.class_names)
            result |= {f"{name}/{key}": scores[key] for key in ("miou", "pixel_accuracy", "ece")}
        self.averages = result
        return result

    @property
    def reliability(self) -> dict[str, Reliability]:
        """How confidence and accuracy of the maps agreed since ``begin_interval``, where ``averages`` has their ECE."""
        return {
            name: metrics.reliability()
            for name, metrics in self._pseudo_metrics.items()
            if not metrics.is_empty()
        }

    def _prepared(self, step: Callable[..., None]) -> Callable[..., None]:
        """A part of ``train_step`` as the replicas run it."""
        # AutoGraph has nothing to convert in a step, and takes as long as tracing it.
        plain = tf.autograph.experimental.do_not_convert(step)
        return tf.function(plain, jit_compile=True) if self._config.runtime.jit else plain

    def _step(self, batch: Mapping[str, Examples]) -> None:
        """One optimizer step on this replica's share of the batch."""
        self._apply(self._gradients(batch, self._weights()))

    def _part(self, batch: Mapping[str, Examples], number: tf.Tensor) -> None:
        """Adds the gradients of one part of that share, of ``train.accumulate``, to those before."""
        parts = self._config.train.accumulate
        height, width = self._config.data.crop_size
        decoder, last = (
            ((height - 1) // stride + 1, (width - 1) // stride + 1)
            for stride in (4, self._config.model.output_stride)
        )
        valid = None
        if "unlabeled" in batch:
            # Nothing else of the views is computed for it.
            valid = additional_batch(self._model, batch["unlabeled"], self._config.data.cutout)["valid"]
        weights = part_weights(
            self._weights(),
            batch["labeled"]["labels"],
            valid,
            number,
            parts,
            sizes={"supervised": decoder, "attention": last, "consistency": decoder},
            pixels=pixel_loss_options(self._config.train, self._optimizer.iterations),
            across_replicas=self._across_replicas,
        )
        assert self._accumulator is not None
        self._accumulator.add(self._gradients(part_of(batch, number, parts), weights))

    def _apply_parts(self) -> None:
        assert self._accumulator is not None
        self._apply(self._accumulator.take())

    def _weights(self) -> steps.LossWeights:
        train, pseudo = self._config.train, self._config.pseudo
        return steps.LossWeights(
            consistency=pseudo.weight * ramp_up(self._optimizer.iterations, pseudo.ramp_steps),
            classification=train.classification_weight,
            attention=train.attention_weight,
            decay=train.weight_decay,
        )

    def _gradients(self, batch: Mapping[str, Examples], weights: steps.LossWeights) -> list[tf.Tensor | None]:
        """The gradient of the total, and what the console and the records say of these examples."""
        train = self._config.train
        scale = self._optimizer.get_scaled_loss if self._scales_losses else tf.identity
        gradients = steps.GradientSum(self._variables, scale)
        pixels = pixel_loss_options(train, self._optimizer.iterations)
        labeled = labeled_batch(self._model, batch["labeled"])
        if train.mode == "supervised":
            terms = steps.supervised_losses(
                self._model, labeled, weights, self._across_replicas, pixels, gradients
            )
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
                gradients=gradients,
            )
        self._watch.see_losses(self._optimizer.iterations, terms, self._across_replicas)
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
        return gradients.values

    def _apply(self, gradients: Sequence[tf.Tensor | None]) -> None:
        if self._scales_losses:
            # It looks for overflow itself, which is no mistake of anybody's.
            gradients = self._optimizer.get_unscaled_gradients(gradients)
        else:
            known = [gradient for gradient in gradients if gradient is not None]
            self._watch.see_gradients(self._optimizer.iterations, known, self._across_replicas)
        # The shares of the replicas add up to the gradient of the global batch; the optimizer sums them.
        self._optimizer.apply_gradients(
            [
                (gradient if multiplier == 1.0 else gradient * multiplier, variable)
                for gradient, multiplier, variable in zip(
                    gradients, self._multipliers, self._variables, strict=True
                )
                if gradient is not None
            ]
        )


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

    def __init__(
        self,
        config: Config,
        model: PseudoSegModel,
        sources: Sources,
        run_dir: str,
        bad_examples: BadExamples | None,
    ):
        self._config = config
        self._model = model
        self._info: DatasetInfo = sources.info
        self._directory = os.path.join(run_dir, "pictures")
        data = dataclasses.replace(config.data, batch_labeled=1, batch_unlabeled=_PANEL_IMAGES)
        dataset = pipeline.training_dataset(sources, data, config.train.mode, 0, bad_examples=bad_examples)
        batch = next(iter(dataset))
        self._examples = batch["unlabeled"]
        assert sources.unlabeled is not None
        ids = pipeline.example_ids(sources.unlabeled, data, "unlabeled", 0)
        self._images = [_image_or_white(sources.unlabeled, record_id) for record_id in ids]

    def write(
        self, step: int, reliability: Mapping[str, Reliability], summaries: orbit.utils.SummaryManager
    ) -> None:
        """Draws the panel of ``step`` and, where masks are known, reliability diagrams of the maps."""
        additional, branch = self._pseudo_labels()
        picture = visualize.pseudo_label_panel(
            images=self._images,
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
            if reliability:
                diagrams = visualize.figure_pixels(reliability_figure(reliability))
                tf.summary.image("reliability", diagrams[np.newaxis], step=step)

    @tf.function(autograph=False)
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


def _image_or_white(source: Source, record_id: str) -> np.ndarray:
    """The image of a record, uint8 [h, w, 3]; white if it cannot be used, so that the views are those of another."""
    try:
        return decode_record(source.read(source.ids.index(record_id)), source.info.num_classes)[0]
    except UserError:
        return np.full([1, 1, 3], 255, np.uint8)
