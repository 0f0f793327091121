"""From TensorFlow 1 checkpoints to run directories and back; what a checkpoint holds, as a table."""

from __future__ import annotations

import os
import shutil

import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_optimizer
from pseudoseg_tf.checkpoint import checkpoint_directory, restore_model
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_no_pattern, write_json
from pseudoseg_tf.inference import read_info
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.optim import Adam, Momentum
from pseudoseg_tf.tf1_checkpoint import (
    guess_network,
    load_variables,
    map_variables,
    shape_text,
    tf1_shape,
    tf1_variables,
    write_tf1_checkpoint,
)
from pseudoseg_tf.tf1_files import Tf1Checkpoint, check_free


def from_tf1(path: str, run_dir: str, config: Config, preset: str = "") -> str:
    """Makes a run directory of a trained TensorFlow 1 checkpoint: weights, optimizer and step.

    Evaluation, export (of the checkpoint "last") and continued training take it as if it had been trained
    here.

    Args:
        path: see ``Tf1Checkpoint``.
        run_dir: must be absent or empty; appears when it is complete.
        config: of the run, as for ``train``; its data are opened for the names of the classes.
        preset: for the record.

    Returns:
        One line: the checkpoint, its step, and what was loaded.

    Raises:
        UserError: the checkpoint cannot be read or is not one of this configuration, the data cannot be
            used, or ``run_dir`` is in use.
    """
    run_dir = os.path.abspath(run_dir)
    check_no_pattern(run_dir)
    if os.path.exists(run_dir) and not (os.path.isdir(run_dir) and not os.listdir(run_dir)):
        raise UserError(f"{run_dir}: exists already; name a directory that is absent or empty")
    checkpoint = Tf1Checkpoint(path)
    info = open_sources(config.data, config.train.mode).info
    config_io.validate_for_classes(config, info.num_classes)
    model = create_model(config, info)
    optimizer = create_optimizer(config.train)
    optimizer.build(model.trainable_variables)
    mapping = map_variables(checkpoint.shapes, model, optimizer=optimizer)
    load_variables(checkpoint, mapping)

    temporary = f"{run_dir}.{os.getpid()}.tmp"
    try:
        config_io.save(temporary, preset, config)
        write_json(os.path.join(temporary, "dataset.json"), info.to_json())
        step = int(optimizer.iterations.numpy())
        # What ``train`` saves and restores.
        saved = tf.train.Checkpoint(step=optimizer.iterations, model=model, optimizer=optimizer)
        directory = checkpoint_directory(temporary, "last")
        tf.train.CheckpointManager(saved, directory, config.train.keep).save(checkpoint_number=step)
        os.replace(temporary, run_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{checkpoint.path}, step {step}; {mapping.summary()}"


def to_tf1(run_dir: str, prefix: str, checkpoint: str = "last") -> str:
    """Writes a checkpoint of a run, optimizer and step included, as a TensorFlow 1 checkpoint.

    Args:
        prefix: of the files to write; none of them may exist.
        checkpoint: "last", "best" or the path of a checkpoint.

    Returns:
        The path of the checkpoint that was written.

    Raises:
        UserError: the run or checkpoint cannot be read, or ``prefix`` is in use or cannot be written.
    """
    check_free(prefix)
    check_no_pattern(prefix)
    config = config_io.load(run_dir)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    model = create_model(config, info)
    optimizer = create_optimizer(config.train)
    optimizer.build(model.trainable_variables)
    _, path = restore_model(run_dir, checkpoint, model, optimizer)
    write_tf1_checkpoint(prefix, model, optimizer)
    return path


def inspect_tf1(path: str, backbone: str | None = None, num_classes: int | None = None) -> str:
    """A table of every variable of a TensorFlow 1 checkpoint and what becomes of it, and of ours without one.

    Args:
        path: see ``Tf1Checkpoint``.
        backbone: ``model.backbone``; None: as the names tell.
        num_classes: background included; None: as the shapes tell, else 21.

    Raises:
        UserError: the checkpoint cannot be read, or the names tell no backbone.
    """
    checkpoint = Tf1Checkpoint(path)
    shapes = checkpoint.shapes
    for name in shapes:
        # A table of names must not make a damaged file look whole.
        checkpoint.read(name)
    guess = guess_network(shapes)
    if backbone is None and "backbone" not in guess:
        names = ", ".join(list(shapes)[:3]) or "nothing"
        raise UserError(
            f"{checkpoint.path}: its names tell no backbone known here (such as {names}); give --backbone"
        )
    if backbone is not None and backbone != guess.get("backbone"):
        guess.pop("width_multiplier", None)
    told = [f"{key}={config_io.as_text(value)}" for key, value in guess.items()]
    given = {"backbone": backbone, "num_classes": num_classes}
    network = {"num_classes": 21} | guess | {key: value for key, value in given.items() if value is not None}
    model = build_model(**network)
    # For the run view only, to see whether slots fit.
    adam = any(name.endswith("/Adam") for name in shapes)
    optimizer: Momentum | Adam = Adam() if adam else Momentum(0.0)
    optimizer.build(model.trainable_variables)
    as_weights = map_variables(shapes, model)
    as_run = map_variables(shapes, model, optimizer=optimizer)

    rows = [("variable of the checkpoint", "shape", "as first weights")]
    for name, shape in shapes.items():
        if name in as_weights.loaded:
            fate = f"loaded: {as_weights.loaded[name].name.split(':')[0]}"
        elif name in as_weights.skipped:
            fate = f"skipped: {as_weights.skipped[name]}"
        else:
            fate = f"left over: {as_weights.leftover[name]}"
        rows.append((name, shape_text(shape), fate))
    targets = tf1_variables(model)
    random = [("variable of the model", "shape", "without a value from the checkpoint")]
    for name, part in as_weights.random.items():
        random.append((name, shape_text(tf1_shape(targets[name])), f"random: {part}"))
    lines = [
        f"{checkpoint.path}: {len(shapes)} variables",
        f"names and shapes tell: {', '.join(told) or 'nothing'}",
        f"compared with: {network['backbone']}, {network['num_classes']} classes",
        "",
        *_table(rows),
        "",
        *(_table(random) if len(random) > 1 else ["no variable of the model stays random"]),
        "",
        _verdict("as first weights (init.weights)", as_weights.errors, as_weights.summary()),
        _verdict("as a trained run (--from)", as_run.errors, as_run.summary()),
    ]
    return "\n".join(lines)


def _verdict(use: str, errors: tuple[str, ...], summary: str) -> str:
    return f"{use}: refused, {'; '.join(errors)}" if errors else f"{use}: {summary}"


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:{widths[0]}}  {shape:>{widths[1]}}  {rest}" for name, shape, rest in rows]
