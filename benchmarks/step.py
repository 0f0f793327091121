r"""Time and memory of a training step: ours against the plain form with a pass for each purpose.

Each form is a process of its own that runs the step of a preset on one batch of drawn noise, input excluded; they take
turns, a step each, so that all meet the same load. Prints a table and writes JSON; the ratio to the plain form is what
carries over to another machine.

Example:
  python -m benchmarks.step --out=runs/bench/step.json --set model.backbone=xception_65 --set data.crop_size=257 \
    --set data.batch_labeled=2 --set data.batch_unlabeled=2
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from absl import flags

from benchmarks.machine import described, machine
from benchmarks.noise_preset import noise_preset
from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config
from pseudoseg_tf.cost import forward_passes
from pseudoseg_tf.data.specs import Record, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_json

if TYPE_CHECKING:
    import tensorflow as tf

    from pseudoseg_tf.nn.layers import EndPoints
    from pseudoseg_tf.nn.model import PseudoSegModel

_PRESET = flags.DEFINE_string("preset", "voc12", "Where the configuration starts; its data are not read.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key.")
_CLASSES = flags.DEFINE_integer("classes", 21, "Number of classes.", lower_bound=2, upper_bound=255)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps of each form.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; none if absent.")
_FORM = flags.DEFINE_string(
    "form", None, "Measure this form alone, in this process: a step for each line of standard input."
)

# What sets each form apart; "plain" also replaces the losses.
FORMS = {"plain": (), "ours": (), "shared weak pass": ("pseudo.share_weak_pass=true",)}


def main(argv: Sequence[str]) -> None:
    """Measures the forms in turn: a step of each, again and again."""
    del argv
    if _FORM.value and _FORM.value not in FORMS:
        raise UserError(f"--form: found {_FORM.value!r}, must be one of {', '.join(FORMS)}")
    config = noise_preset(_PRESET.value, _SET.value)
    if config.train.mode == "supervised":
        raise UserError("train.mode: found 'supervised', whose one pass has no plain form; must be another")
    if _FORM.value:
        config = config_io.apply_overrides(config, list(FORMS[_FORM.value]))
        measure_on_request(config, _CLASSES.value, plain=_FORM.value == "plain")
        return
    results = measure_in_turn(_STEPS.value)
    add_work(config, _CLASSES.value, results)
    print(report(config, results))
    if _OUT.value:
        content = {**machine(), "config": config_io.to_dict(config), "forms": results}
        write_json(_OUT.value, content)


def measure_in_turn(steps: int) -> dict[str, dict[str, float]]:
    """Runs every form in a process of its own, one step of each after the other, so that all meet the same load.

    Returns:
      For each form "seconds" and "core_seconds", the medians of its steps by the clock and by processor time;
      "first_seconds": tracing and the first step; "peak_mb" of the process, "begin_mb", before the first step, and
      "tensors_mb", the peak of TensorFlow's tensors alone, weights included, where it counts them; but for the plain
      form "attention_core_seconds".
    """
    processes = {}
    results: dict[str, dict[str, float]] = {}
    timings: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    try:
        for form in FORMS:
            print(f"first step: {form} ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], f"--form={form}"]
            processes[form] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            results[form] = _answer(form, processes[form])
        for number in range(steps):
            print(f"step {number + 1} of {steps}", file=sys.stderr, flush=True)
            for form, process in processes.items():
                _ask(process)
                answer = _answer(form, process)
                timings[form].append((answer["seconds"], answer["core_seconds"]))
                results[form] |= {name: answer[name] for name in ("peak_mb", "tensors_mb")}
        last = {form: process.communicate()[0] for form, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    for form, pairs in timings.items():
        seconds, core_seconds = np.median(pairs, axis=0)
        results[form] |= {"seconds": float(seconds), "core_seconds": float(core_seconds)}
        results[form] |= json.loads(last[form] or "{}")
    return results


def _ask(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("step\n")
    process.stdin.flush()


def _answer(form: str, process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise UserError(f"the process that measures {form!r} failed, see above")
    found: dict[str, float] = json.loads(line)
    return found


def measure_on_request(config: Config, num_classes: int, plain: bool) -> None:
    """Makes a step at once and another for each line of standard input; prints a line of JSON for each."""
    import tensorflow as tf

    from benchmarks.noise import noise_sources
    from benchmarks.plain_step import plain_losses
    from pseudoseg_tf.assembly import create_model, create_optimizer, create_strategy
    from pseudoseg_tf.data.pipeline import training_dataset
    from pseudoseg_tf.trainer import Trainer

    strategy = create_strategy(config.runtime)
    sources = noise_sources(num_classes)
    # The step alone: pseudo labels are scored only where masks are known.
    sources = dataclasses.replace(sources, unlabeled=_WithoutMasks(sources.unlabeled))
    batch = next(iter(training_dataset(sources, config.data, config.train.mode, 0)))
    with strategy.scope():
        model = create_model(config, sources.info)
        optimizer = create_optimizer(config.train, config.runtime.precision)
        optimizer.build(model.trainable_variables)
    with (
        mock.patch("pseudoseg_tf.steps.pseudoseg_losses", plain_losses) if plain else contextlib.nullcontext()
    ):
        trainer = Trainer(config, model, optimizer, strategy, sources)
        # One batch again and again, which costs nothing to read.
        trainer.train_dataset = tf.data.Dataset.from_tensors(batch).repeat()

        def step() -> dict[str, float]:
            begin = time.perf_counter(), time.process_time()
            trainer.train(tf.constant(1))
            seconds, core_seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
            peaks = {"peak_mb": _peak_mb(), "tensors_mb": _tensors_mb()}
            return {"seconds": seconds, "core_seconds": core_seconds, **peaks}

        begin_mb, first = _peak_mb(), step()
        answer = {"begin_mb": begin_mb, "first_seconds": first["seconds"], "peak_mb": first["peak_mb"]}
        print(json.dumps(answer), flush=True)
        for _ in sys.stdin:
            print(json.dumps(step()), flush=True)
        if not plain:
            print(json.dumps({"attention_core_seconds": attention_core_seconds(model, config)}), flush=True)


def attention_core_seconds(model: PseudoSegModel, config: Config) -> float:
    """Processor time of what a step adds to the passes: Grad-CAM and self-attention of both streams, fusion, L_sa."""
    import tensorflow as tf

    from pseudoseg_tf.losses import pixel_cross_entropy
    from pseudoseg_tf.nn.layers import resize_align_corners
    from pseudoseg_tf.pseudo_label import fuse

    height, width = config.data.crop_size
    size = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
    labeled, weak = (
        model.features(tf.random.uniform([count, height, width, 3]), training=False)
        for count in (config.data.batch_labeled, config.data.batch_unlabeled)
    )
    decoder_logits = tf.random.normal([config.data.batch_unlabeled, *size, model.num_classes])
    labels = tf.ones([config.data.batch_labeled, height, width], tf.uint8)

    def refined(end_points: EndPoints) -> tf.Tensor:
        image_logits, weights = model.classify(end_points)
        cam = model.grad_cam(end_points, weights, tf.ones_like(image_logits))
        return model.sgc(end_points, cam, tf.ones([image_logits.shape[0], *size]), training=True)

    @tf.function(autograph=False)
    def extras(weak: EndPoints, labeled: EndPoints) -> list[tf.Tensor]:
        pseudo_label = fuse(decoder_logits, resize_align_corners(refined(weak), size))
        with tf.GradientTape() as tape:
            loss = pixel_cross_entropy(refined(labeled), labels)
        return [pseudo_label, *tape.gradient(loss, model.sgc_attention.trainable_variables)]

    extras(weak, labeled)
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        extras(weak, labeled)
        seconds.append(time.process_time() - begin)
    return float(np.median(seconds))


def _peak_mb() -> float:
    # Kilobytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tensors_mb() -> float:
    import tensorflow as tf

    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    try:
        return tf.config.experimental.get_memory_info(device)["peak"] / 2**20
    except ValueError:  # On CPUs only oneDNN's allocator counts.
        return float("nan")


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


def add_work(config: Config, num_classes: int, results: Mapping[str, dict[str, float]]) -> None:
    """Adds to each form "gigaflop", the operations of its step (a multiplication with addition counts as two)."""
    from benchmarks.plain_step import plain_passes
    from pseudoseg_tf.nn.model import build_model
    from pseudoseg_tf.nn.pass_cost import count_parts

    model = build_model(num_classes, **dataclasses.asdict(config.model))
    parts = count_parts(model, *config.data.crop_size)
    work = {name: 2e-9 * part.multiply_accumulates for name, part in parts.items()}
    for form, found in results.items():
        formed = config_io.apply_overrides(config, list(FORMS[form]))
        of_backbone, of_head = plain_passes(config) if form == "plain" else _our_passes(formed)
        found["gigaflop"] = of_backbone * work["backbone"] + of_head * (work["ASPP"] + work["decoder"])


def _our_passes(config: Config) -> tuple[int, int]:
    """As ``plain_step.plain_passes``: every stream is decoded once, and learned from but for the weak view."""
    return forward_passes(config), 3 * config.data.batch_labeled + (1 + 3) * config.data.batch_unlabeled


def report(config: Config, results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of the forms, and their ratios to the plain one."""
    data, plain = config.data, results["plain"]
    lines = [
        f"{config.model.backbone}, crop {data.crop_size[0]}x{data.crop_size[1]}, "
        f"{data.batch_labeled} labeled + {data.batch_unlabeled} additional images, {config.train.mode} mode, "
        f"{config.runtime.precision}, jit {str(config.runtime.jit).lower()}; {described()}",
        "",
        "| form | s/step | core s/step | times as fast | images/s | gigaFLOP/step | gigaFLOP/s of a core "
        "| first step s | peak MB | share of memory | of tensors MB | share |",
        "|--|--|--|--|--|--|--|--|--|--|--|--|",
    ]
    images = data.batch_labeled + data.batch_unlabeled
    for form, found in results.items():
        lines.append(
            f"| {form} | {found['seconds']:.2f} | {found['core_seconds']:.2f} "
            f"| {plain['core_seconds'] / found['core_seconds']:.2f} | {images / found['seconds']:.2f} "
            f"| {found['gigaflop']:.0f} | {found['gigaflop'] / found['core_seconds']:.1f} "
            f"| {found['first_seconds']:.1f} | {found['peak_mb']:.0f} "
            f"| {found['peak_mb'] / plain['peak_mb']:.2f} "
            f"| {found['tensors_mb']:.0f} | {found['tensors_mb'] / plain['tensors_mb']:.2f} |"
        )
    ours = results["ours"]
    lines += [
        "",
        "Times as fast: by processor time. Peak: of the whole process, TensorFlow included. Grad-CAM, self-attention "
        f"and fusion take {100 * ours['attention_core_seconds'] / ours['core_seconds']:.1f} % of our step.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    _app.run(main)
