r"""Time and memory of a training step: ours against the plain form with a pass for each purpose.

Each form is a process of its own that runs the step of a preset on one batch of drawn noise, input excluded. Prints a
table and writes JSON; the ratio to the plain form is what carries over to another machine.

Example:
  python -m benchmarks.step --out=runs/bench/step.json --set model.backbone=xception_65 --set data.crop_size=257 \
    --set data.batch_labeled=2 --set data.batch_unlabeled=2
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.specs import Record, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_json
from pseudoseg_tf.presets import preset

_PRESET = flags.DEFINE_string("preset", "voc12", "Where the configuration starts; its data are not read.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key.")
_CLASSES = flags.DEFINE_integer("classes", 21, "Number of classes.", lower_bound=2, upper_bound=255)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps of each form.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; none if absent.")
_FORM = flags.DEFINE_string("form", None, "Measure this form alone, in this process; prints JSON.")

# What sets each form apart; "plain" also replaces the losses.
FORMS = {"plain": (), "ours": (), "shared weak pass": ("pseudo.share_weak_pass=true",)}


def main(argv: Sequence[str]) -> None:
    """Measures the forms one after the other."""
    del argv
    if _FORM.value and _FORM.value not in FORMS:
        raise UserError(f"--form: found {_FORM.value!r}, must be one of {', '.join(FORMS)}")
    config = config_io.apply_overrides(preset(_PRESET.value), _SET.value)
    config_io.validate(config)
    if config.train.mode == "supervised":
        raise UserError("train.mode: found 'supervised', whose one pass has no plain form; must be another")
    if _FORM.value:
        config = config_io.apply_overrides(config, list(FORMS[_FORM.value]))
        print(json.dumps(measure(config, _CLASSES.value, _STEPS.value, plain=_FORM.value == "plain")))
        return
    results = {}
    for form in FORMS:
        print(f"measuring: {form} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], f"--form={form}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise UserError(f"the process that measures {form!r} failed, see above")
        results[form] = json.loads(done.stdout.splitlines()[-1])
    print(report(config, results))
    if _OUT.value:
        machine = {"machine": platform.machine(), "cores": os.cpu_count()}
        write_json(_OUT.value, {**machine, "config": config_io.to_dict(config), "forms": results})


def measure(config: Config, num_classes: int, steps: int, plain: bool) -> dict[str, Any]:
    """Times steps of one form in this process.

    Returns:
      "seconds": the median step; "images_per_second"; "first_seconds": tracing and the first step; "peak_mb": of
      the process.
    """
    import tensorflow as tf

    from benchmarks.noise import noise_sources
    from benchmarks.plain_step import plain_losses
    from pseudoseg_tf.data.pipeline import training_dataset
    from pseudoseg_tf.train import Trainer, create_model, create_optimizer, create_strategy

    strategy = create_strategy(config.runtime)
    sources = noise_sources(num_classes)
    # The step alone: pseudo labels are scored only where masks are known.
    sources = dataclasses.replace(sources, unlabeled=_WithoutMasks(sources.unlabeled))
    batch = next(iter(training_dataset(sources, config.data, config.train.mode, 0)))
    with strategy.scope():
        model = create_model(config, sources.info)
        optimizer = create_optimizer(config.train)
        optimizer.build(model.trainable_variables)
    with (
        mock.patch("pseudoseg_tf.steps.pseudoseg_losses", plain_losses) if plain else contextlib.nullcontext()
    ):
        trainer = Trainer(config, model, optimizer, strategy, sources)
        # One batch again and again, which costs nothing to read.
        trainer.train_dataset = tf.data.Dataset.from_tensors(batch).repeat()
        seconds = []
        for _ in range(steps + 1):
            begin = time.perf_counter()
            trainer.train(tf.constant(1))
            seconds.append(time.perf_counter() - begin)
    first, median = seconds[0], float(np.median(seconds[1:]))
    return {
        "seconds": median,
        "images_per_second": (config.data.batch_labeled + config.data.batch_unlabeled) / median,
        "first_seconds": first,
        # Kilobytes on Linux.
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


class _WithoutMasks:
    """A source that hides its masks."""

    has_masks = False

    def __init__(self, source: Source) -> None:
        self.info, self.ids, self._source = source.info, source.ids, source

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Record:
        record = self._source.read(index)
        image_labels = np.ones(len(self.info.image_classes), np.float32)
        return dataclasses.replace(record, mask=None, image_labels=image_labels)


def report(config: Config, results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of the forms, and their ratios to the plain one."""
    data, plain = config.data, results["plain"]
    lines = [
        f"{config.model.backbone}, crop {data.crop_size[0]}x{data.crop_size[1]}, "
        f"{data.batch_labeled} labeled + {data.batch_unlabeled} additional images, {config.train.mode} mode, "
        f"{config.runtime.precision}, jit {str(config.runtime.jit).lower()}; {platform.machine()}, "
        f"{os.cpu_count()} cores",
        "",
        "| form | s/step | images/s | times as fast | first step s | peak MB | share of memory |",
        "| -- | -- | -- | -- | -- | -- | -- |",
    ]
    for form, found in results.items():
        lines.append(
            f"| {form} | {found['seconds']:.3f} | {found['images_per_second']:.2f} "
            f"| {plain['seconds'] / found['seconds']:.2f} | {found['first_seconds']:.1f} "
            f"| {found['peak_mb']:.0f} | {found['peak_mb'] / plain['peak_mb']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    _app.run(main)
