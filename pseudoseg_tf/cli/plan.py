"""What training will do and cost, in words: the output of ``--dry_run``."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap
from pathlib import Path

import tensorflow as tf

from pseudoseg_tf.aspp_reach import reach_notes
from pseudoseg_tf.checkpoint import check_initial_weights
from pseudoseg_tf.config import Config, RuntimeConfig
from pseudoseg_tf.config_io import as_text, to_dict, validate_for_classes
from pseudoseg_tf.cost import forward_passes, images_at_once, parts_of_batch, passes, scaled_schedule
from pseudoseg_tf.cpu_speed import cpu_speed_notes
from pseudoseg_tf.data.decoded_cache import cache_notes
from pseudoseg_tf.data.input_service import check_servers
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import Source
from pseudoseg_tf.files import check_directory
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.nn.pass_cost import count_pass
from pseudoseg_tf.nn.sliding_window import window_stride
from pseudoseg_tf.run_data import check_run_data
from pseudoseg_tf.self_training import prepare
from pseudoseg_tf.single_image import single_image_notes
from pseudoseg_tf.workers import check_cluster


def plan(
    config: Config,
    run_dir: str,
    continues: bool,
    *,
    reference: Config | None = None,
    teraflops: float | None = None,
) -> str:
    """Opens the data, builds the network and describes the run. Writes nothing into ``run_dir``.

    Args:
      continues: whether ``run_dir`` holds this run already.
      reference: the preset, whose schedule is scaled if the run has another batch.
      teraflops: what the devices sustain together; None: no hours are given.

    Raises:
      UserError: if the data or the first weights cannot be used.
    """
    data, train = config.data, config.train
    if config.runtime.input_servers:
        check_servers(config.runtime.input_servers.split(","))
    # Where a cluster is planned for, there need not be one.
    if config.runtime.strategy == "multi_worker" and "TF_CONFIG" in os.environ:
        check_cluster()
    sources = open_sources(data, train.mode)
    info = sources.info
    check_run_data(run_dir, sources)
    validate_for_classes(config, info.num_classes)
    model = build_model(info.num_classes, background=info.has_background, **dataclasses.asdict(config.model))
    init = config.init
    # A run that continues needs none.
    starts = bool(init.weights) and not continues
    first_weights = check_initial_weights(model, init.weights, init.last_layers) if starts else ""
    # A checkpoint holds every variable, and a momentum for each that is trained; Adam has two moments.
    moments = (2 if train.optimizer == "adam" else 1) * model.trainable_variables
    megabytes = 4e-6 * sum(v.shape.num_elements() for v in [*model.variables, *moments])

    cost = forward_passes(config)
    height, width = data.crop_size
    one_pass = count_pass(model, height, width)
    passes_to_score = (1 + data.eval_flip) * sum(scale**2 for scale in data.eval_scales)
    # In the middle of a large image each pixel is seen by so many windows.
    for side in filter(None, data.eval_window):
        passes_to_score *= side / window_stride(side, data.eval_overlap)

    paragraphs = [
        f"{group}: " + " ".join(f"{name}={as_text(value)}" for name, value in values.items())
        for group, values in to_dict(config).items()
    ]
    paragraphs += [
        "",
        f"run directory: {run_dir} ({'continues the run in it' if continues else 'new'})",
        f"classes: {info.num_classes} ({', '.join(info.class_names)}); background: {info.background}",
        f"labeled: {_stream(sources.labeled, data.batch_labeled, train.steps)}",
    ]
    if sources.unlabeled is not None:
        paragraphs.append(f"unlabeled: {_stream(sources.unlabeled, data.batch_unlabeled, train.steps)}")
        if sources.unlabeled.has_masks and train.mode == "unlabeled":
            paragraphs.append(
                "note: the masks of unlabeled images score the pseudo labels; nothing learns from them"
            )
    notes = (
        *sources.notes,
        *cache_notes(data.cache),
        *reach_notes(config),
        *single_image_notes(config, _visible_replicas(config.runtime)),
        *cpu_speed_notes(config.runtime),
    )
    paragraphs += [
        f"val: {len(sources.val)} images, scored {-(-train.steps // train.evaluate_every)} times"
        + (f", each worth {passes_to_score:.3g} forward passes" if passes_to_score != 1 else ""),
        *(f"note: {note}" for note in notes),
        "note: pictures were not decoded, and masks only in part; pseudoseg-check-data looks at all of them",
        *([first_weights] if first_weights else []),
        f"model: {config.model.backbone}, {model.count_params() / 1e6:.2f} million parameters",
        f"step: {'; '.join(f'{images} x {what}' for images, what, _ in passes(config))}",
        *([f"parts: {train.accumulate}, one after the other"] if train.accumulate > 1 else []),
        f"steps: {train.steps}, each worth {cost} forward passes of {height}x{width} pixels "
        "(a backward pass counts as two)",
        _work(one_pass.multiply_accumulates, train.steps * cost, teraflops),
        _memory(config, one_pass.activation_bytes, megabytes, model),
        *([_scaling(config, reference)] if reference and _other_batch(config, reference) else []),
        f"checkpoints: every {train.checkpoint_every} steps; {train.keep} last and 1 best, {megabytes:.0f} "
        f"MB each; {shutil.disk_usage(check_directory(run_dir)).free / 1e9:.0f} GB free",
    ]
    return "\n".join(textwrap.fill(text, 110, subsequent_indent="  ") for text in paragraphs)


def self_training_plan(config: Config, run_dir: str, threshold: float | None) -> str:
    """Opens the data, builds the network and describes a self-training. Writes nothing into ``run_dir``.

    Raises:
        UserError: if the data, the first weights or the directories cannot be used.
    """
    parts = prepare(config, run_dir, threshold)
    continues = (Path(parts.teacher_dir) / "config.json").exists()
    data, steps = parts.student.data, parts.student.train.steps
    epoch = len(parts.unlabeled) + parts.labeled * data.repeat_labeled
    paragraphs = [
        f"2 of 3, pseudo labels: {parts.pseudo_labels}",
        f"{len(parts.unlabeled)} images, {len(parts.unlabeled) - len(parts.missing())} of them there already; pixels "
        f"of a confidence above {parts.threshold:g}, from the teacher's last checkpoint",
        f"3 of 3, the student: {parts.student_dir}",
        f"{len(parts.unlabeled)} pseudo-labeled images, {parts.labeled} labeled ones, each {data.repeat_labeled} times "
        f"an epoch; {data.batch_labeled} a step, {steps * data.batch_labeled / epoch:.1f} epochs",
        f"steps: {steps}, each worth {3 * data.batch_labeled} forward passes",
    ]
    return "\n".join(
        [
            f"1 of 3, the teacher: {parts.teacher_dir}",
            plan(parts.teacher, parts.teacher_dir, continues),
            *(textwrap.fill(text, 110, subsequent_indent="  ") for text in paragraphs),
        ]
    )


def _visible_replicas(runtime: RuntimeConfig) -> int:
    """What this machine would run on; 1 where others are to take part."""
    gpus = tf.config.list_physical_devices("GPU")
    return max(1, len(gpus)) if runtime.strategy in ("auto", "mirrored") else 1


def _stream(source: Source, batch: int, steps: int) -> str:
    masks = "with masks" if source.has_masks else "without masks"
    if not source.has_masks and any(map(source.has_mask, range(len(source)))):
        masks = "some with masks"
    return f"{len(source)} images, {masks}; {batch} a step, {steps * batch / len(source):.1f} epochs"


def _work(multiply_accumulates: int, passes_of_the_run: int, teraflops: float | None) -> str:
    operations = 2 * multiply_accumulates * passes_of_the_run
    hours = (
        f", {operations / teraflops / 1e12 / 3600:.3g} hours at {teraflops:g} teraFLOPS" if teraflops else ""
    )
    return (
        f"work: {multiply_accumulates / 1e9:.4g} billion multiply-accumulates a forward pass, "
        f"{operations / 1e15:.3g} petaFLOP in all{hours}; evaluation not counted"
    )


def _memory(config: Config, activation_bytes: int, checkpoint_megabytes: float, model: PseudoSegModel) -> str:
    images = images_at_once(config)
    # Those so far, those of the pass at hand, and those of the parts before.
    copies = 1 + (config.train.mode != "supervised") + (config.train.accumulate > 1)
    gradients = copies * 4e-6 * sum(v.shape.num_elements() for v in model.trainable_variables)
    bytes_each = activation_bytes / (1 if config.runtime.precision == "float32" else 2)
    less = ", less with runtime.rematerialize" if config.runtime.rematerialize else ""
    return (
        f"memory: about {images * bytes_each / 1e9:.3g} GB for the activations of the {images} images that a backward "
        f"pass takes at once, over all devices{less}, and {checkpoint_megabytes + gradients:.0f} MB on each for "
        "weights, gradients and optimizer; an estimate"
    )


def _other_batch(config: Config, reference: Config) -> bool:
    return config.data.batch_labeled != reference.data.batch_labeled


def _scaling(config: Config, reference: Config) -> str:
    rate, steps = scaled_schedule(config, reference)
    data, train = config.data, config.train
    parts, whole = parts_of_batch(config, reference), reference.data
    in_parts = (
        f"the preset's batch takes no more memory in parts, data.batch_labeled={whole.batch_labeled} "
        f"data.batch_unlabeled={whole.batch_unlabeled} train.accumulate={parts}; or "
        if parts
        else ""
    )
    return (
        f"note: data.batch_labeled={data.batch_labeled} where the preset has {whole.batch_labeled}; {in_parts}by the "
        f"linear scaling rule it goes with train.learning_rate={rate:g} train.steps={steps} (here "
        f"{train.learning_rate:g} and {train.steps})"
    )
