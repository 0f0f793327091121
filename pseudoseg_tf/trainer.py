"""Runs the steps of ``steps.py`` on all replicas, for orbit's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orbit
import tensorflow as tf

from pseudoseg_tf import losses, steps
from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.accumulation import GradientAccumulator, part_of, part_weights
from pseudoseg_tf.assembly import (
    Optimizer,
    model_gradient_multipliers,
    pixel_loss_options,
    pseudo_label_options,
)
from pseudoseg_tf.config import Config
from pseudoseg_tf.data import color, pipeline
from pseudoseg_tf.data.bad_examples import BadExamples
from pseudoseg_tf.data.input_service import served_dataset
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.finite_watch import FiniteWatch
from pseudoseg_tf.metrics import Reliability, SegmentationMetrics
from pseudoseg_tf.nn.layers import for_xla, resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.optim import ramp_up

Examples = Mapping[str, tf.Tensor]

# The maps that are scored in training where masks are known, as the records name them, and as pictures do.
MAP_TITLES = {"pseudo": "pseudo label", "decoder": "decoder", "sgc": "SGC"}


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
        servers = self._config.runtime.input_servers
        what = self._sources, self._config.data, self._config.train.mode, step

        def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            if servers:
                return served_dataset(servers.split(","), *what, context, self._redrawn)
            return pipeline.training_dataset(*what, context, self._redrawn, self._bad_examples)

        self.train_dataset = self._strategy.distribute_datasets_from_function(dataset)

    def examples_of(self, step: int) -> dict[str, list[str]]:
        """The ids of the images of a step, by stream."""
        return {
            name: pipeline.example_ids(source, self._config.data, name, step, self._redrawn)
            for name, source in self._sources.streams().items()
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

    def share_statistics(self) -> None:
        """Gives all replicas the mean of their moving statistics, which is what a checkpoint holds."""
        if self._strategy.num_replicas_in_sync > 1:
            with self._strategy.scope():
                self._assign_means()

    @tf.function
    def _assign_means(self) -> None:
        for variable in self._model.non_trainable_variables:
            if variable.aggregation == tf.VariableAggregation.MEAN:
                variable.assign(variable.read_value())

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
        count = int(self._steps.numpy())
        result = {f"loss/{name}": float(metric.result()) / count for name, metric in self._losses.items()}
        result["learning_rate"] = float(self._optimizer.learning_rate.numpy())
        for name, metrics in self._pseudo_metrics.items():
            if metrics.is_empty():
                continue
            scores = metrics.result(self._sources.info.class_names)
            result |= {f"{name}/{key}": scores[key] for key in ("miou", "pixel_accuracy", "ece")}
        self.averages = result
        return result

    @property
    def interval_variables(self) -> dict[str, tf.Variable]:
        """What adds up over an interval: ``steps``, ``loss/NAME``, ``MAP/confusion`` and ``MAP/calibration_sums``."""
        sums = {f"loss/{name}": metric.total for name, metric in self._losses.items()}
        for name, metrics in self._pseudo_metrics.items():
            sums |= {f"{name}/{each.name.partition(':')[0]}": each for each in metrics.variables}
        return {"steps": self._steps, **sums}

    @property
    def reliability(self) -> dict[str, Reliability]:
        """How confidence and accuracy of the maps agreed since ``begin_interval``, by their titles."""
        return {
            MAP_TITLES[name]: metrics.reliability()
            for name, metrics in self._pseudo_metrics.items()
            if not metrics.is_empty()
        }

    def _prepared(self, step: Callable[..., None]) -> Callable[..., None]:
        """A part of ``train_step`` as the replicas run it."""
        if self._config.runtime.jit:
            # AutoGraph has nothing to convert in a step, and takes as long as tracing it.
            return tf.function(for_xla()(step), jit_compile=True, autograph=False)
        return tf.autograph.experimental.do_not_convert(step)

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
        self._accumulator.add(self._gradients(part_of(batch, number, parts), weights, number))

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

    def _gradients(
        self, batch: Mapping[str, Examples], weights: steps.LossWeights, part: int | tf.Tensor = 0
    ) -> list[tf.Tensor | None]:
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
        self._watch.see_losses(self._optimizer.iterations, terms, self._across_replicas, part)
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
        can_shrink: bool | tf.Tensor = False
        if self._scales_losses:
            # Where the gradient overflows the optimizer leaves the step out and halves the scale, down to 1.
            can_shrink = self._optimizer.loss_scale > 1.0
            gradients = self._optimizer.get_unscaled_gradients(gradients)
        known = [gradient for gradient in gradients if gradient is not None]
        self._watch.see_gradients(self._optimizer.iterations, known, self._across_replicas, can_shrink)
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


def _replica_sum(x: tf.Tensor) -> tf.Tensor:
    replica = tf.distribute.get_replica_context()
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, x)
