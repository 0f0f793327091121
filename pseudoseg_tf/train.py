"""A run: the training loop with checkpoints, evaluation, pictures and resume."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orbit
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.aspp_reach import reach_notes
from pseudoseg_tf.assembly import create_model, create_optimizer, create_strategy, learning_rate
from pseudoseg_tf.checkpoint import checkpoint_directory
from pseudoseg_tf.checkpoint_files import Checkpoints, checkpoint_prefixes
from pseudoseg_tf.config import Config
from pseudoseg_tf.cpu_speed import cpu_speed_notes
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.bad_examples import BadExamples
from pseudoseg_tf.data.decoded_cache import cache_notes
from pseudoseg_tf.data.input_service import check_servers
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import Evaluator
from pseudoseg_tf.finite_watch import NonFiniteStep
from pseudoseg_tf.interruption import STOPPED, Interrupted, StopSignals
from pseudoseg_tf.panel import Panel
from pseudoseg_tf.records import Console, JsonLines, Log
from pseudoseg_tf.run_data import check_run_data, save_run_data
from pseudoseg_tf.run_lock import claimed
from pseudoseg_tf.single_image import single_image_notes
from pseudoseg_tf.summaries import forget_after
from pseudoseg_tf.trainer import Trainer
from pseudoseg_tf.workers import Workers


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
        if config.runtime.input_servers:
            check_servers(config.runtime.input_servers.split(","))
        sources = open_sources(config.data, config.train.mode)
        check_run_data(run_dir, sources)
        config_io.validate_for_classes(config, sources.info.num_classes)
        last, best = (checkpoint_directory(run_dir, which) for which in ("last", "best"))
        begun = bool(checkpoint_prefixes(last))
        # A run that goes on was told when it began.
        notes = [*sources.notes, *cache_notes(config.data.cache), *cpu_speed_notes(config.runtime)]
        if not begun:
            notes += reach_notes(config) + single_image_notes(config, strategy.num_replicas_in_sync)
        for note in notes:
            log(note)
        with strategy.scope():
            model = create_model(config, sources.info, None if begun else log)
            optimizer = create_optimizer(config.train, config.runtime.precision)
            optimizer.build(model.trainable_variables)
        # Not before the first weights are there: a run that could not begin must not claim the directory.
        if workers.is_chief:
            config_io.save(run_dir, preset, config)
            save_run_data(run_dir, sources)
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
            Panel(config, model, sources, workers.own_dir, self._bad_examples)
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
            self._console.begin()
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
        saves = done % every.checkpoint_every == 0 or done == every.steps
        if due or saves:
            # What is scored and goes on from here is what a checkpoint holds.
            self.trainer.share_statistics()
        if due and self._history.last_step < done:
            # It can be broken off, and done again when the run continues.
            with self._breakable(), _without_output():
                self._controller.evaluate()
            is_best = self._evaluator.result["miou"] > self._best_miou
            self._history.add({"step": done, **self._evaluator.result})
            self._log(_score_line(self._history.entries[-1]) + ("  (best so far)" if is_best else ""))
        is_best = self._best_step == done
        # First the one that the run continues from: then the best is never one that the history lacks.
        if is_best or saves:
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
