"""What a training run will do and cost, in words: the output of ``pseudoseg-train --dry_run``."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from pathlib import Path

from pseudoseg_tf.checkpoint import check_initial_weights
from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import as_text, to_dict, validate_for_classes
from pseudoseg_tf.cost import forward_passes, passes
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import Source
from pseudoseg_tf.nn.model import build_model


def plan(config: Config, run_dir: str, continues: bool) -> str:
    """Opens the data, builds the network and describes the run. Writes nothing into ``run_dir``.

    Args:
      continues: whether ``run_dir`` holds this run already.

    Raises:
      UserError: if the data or the first weights cannot be used.
    """
    data, train = config.data, config.train
    sources = open_sources(data, train.mode)
    info = sources.info
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
    passes_to_score = (1 + data.eval_flip) * sum(scale**2 for scale in data.eval_scales)

    paragraphs = [
        f"{group}: " + " ".join(f"{name}={as_text(value)}" for name, value in values.items())
        for group, values in to_dict(config).items()
    ]
    paragraphs += [
        "",
        f"run directory: {run_dir} ({'continues the run in it' if continues else 'new'})",
        f"classes: {info.num_classes} ({', '.join(info.class_names)})",
        f"labeled: {_stream(sources.labeled, data.batch_labeled, train.steps)}",
    ]
    if sources.unlabeled is not None:
        paragraphs.append(f"unlabeled: {_stream(sources.unlabeled, data.batch_unlabeled, train.steps)}")
        if sources.unlabeled.has_masks and train.mode == "unlabeled":
            paragraphs.append(
                "note: the masks of unlabeled images score the pseudo labels; nothing learns from them"
            )
    paragraphs += [
        f"val: {len(sources.val)} images, scored {-(-train.steps // train.evaluate_every)} times"
        + (f", each worth {passes_to_score:g} forward passes" if passes_to_score != 1 else ""),
        *(f"note: {note}" for note in sources.notes),
        *([first_weights] if first_weights else []),
        f"model: {config.model.backbone}, {model.count_params() / 1e6:.2f} million parameters",
        f"step: {'; '.join(f'{images} x {what}' for images, what, _ in passes(config))}",
        f"steps: {train.steps}, each worth {cost} forward passes of {height}x{width} pixels "
        "(a backward pass counts as two)",
        f"checkpoints: every {train.checkpoint_every} steps; {train.keep} last and 1 best, {megabytes:.0f} "
        f"MB each; {_free_bytes(run_dir) / 1e9:.0f} GB free",
    ]
    return "\n".join(textwrap.fill(text, 110, subsequent_indent="  ") for text in paragraphs)


def _stream(source: Source, batch: int, steps: int) -> str:
    masks = "with masks" if source.has_masks else "not all with masks"
    return f"{len(source)} images, {masks}; {batch} a step, {steps * batch / len(source):.1f} epochs"


def _free_bytes(run_dir: str) -> int:
    path = Path(run_dir).absolute()
    return shutil.disk_usage(next(parent for parent in [path, *path.parents] if parent.exists())).free
