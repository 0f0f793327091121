"""Training as functions from arrays to arrays, in StableHLO, with what they are given; see ``benchmarks.lower``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pseudoseg_tf import config_io
from pseudoseg_tf.comparison import Run
from pseudoseg_tf.config import Config, DataConfig
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.data.specs import Source
from pseudoseg_tf.files import write_json
from pseudoseg_tf.presets import preset
from pseudoseg_tf.progress import Progress

if TYPE_CHECKING:
    import tensorflow as tf

    from pseudoseg_tf.assembly import Optimizer
    from pseudoseg_tf.nn.model import PseudoSegModel
    from pseudoseg_tf.trainer import Trainer

# What changes the examples and the first weights, but not the step.
_INPUT_ONLY = ("data.seed", "train.seed", "data.jitter_strength")


def lower(runs: Sequence[Run], out: Path, timing: bool = False) -> None:
    """Writes programs and runs, each program and each draw once.

    Args:
        timing: leaves out the first states, which are large, and the evaluation.
    """
    from pseudoseg_tf.assembly import create_strategy

    drawn: dict[tuple[str, str, int], dict[str, str]] = {}
    for run in runs:
        config = configuration(run)
        sources = open_sources(config.data, config.train.mode)
        strategy = create_strategy(dataclasses.replace(config.runtime, strategy="one_device"))
        state, trainer, model, _ = make_state(config, sources, strategy)
        program = out / "programs" / f"{config.train.mode}-{_digest(config, _INPUT_ONLY)}"
        evaluation = out / "evaluations" / _digest(config, (*_INPUT_ONLY, "train", "pseudo", "init"))
        if not ((evaluation / "evaluation.json").exists() or timing):
            print("lowering evaluation ...", flush=True)
            write_evaluation(config, sources.val, state, model, evaluation)
        if not (program / "program.json").exists():
            print(f"lowering {run.row} ...", flush=True)
            write_program(config, sources, strategy, state, trainer, model, program)
        streams = {"labeled": sources.labeled}
        if sources.unlabeled is not None:
            streams["unlabeled"] = sources.unlabeled
        files = {}
        if not timing:
            files["state"] = _write_once(out, {str(i): v.numpy() for i, v in enumerate(state)})
        for name, source in streams.items():
            key = name, str(config.data), config.train.steps
            if key not in drawn:
                drawn[key] = _write_once(out, draw_examples(source, config.data, name, config.train.steps))
            files[name] = drawn[key]
        directory = run.directory(out / "runs")
        directory.mkdir(parents=True, exist_ok=True)
        write_json(
            directory / "run.json",
            {
                "row": run.row,
                "seed": run.seed,
                "preset": run.preset,
                "config": config_io.to_dict(config),
                "program": program.name,
                "evaluation": evaluation.name,
                "files": files,
            },
        )


def configuration(run: Run) -> Config:
    """The whole configuration of a run, checked."""
    seeds = [f"data.seed={run.seed}", f"train.seed={run.seed}"]
    config = config_io.apply_overrides(preset(run.preset), [*seeds, *run.overrides])
    config_io.validate(config)
    return config


def _digest(config: Config, without: Sequence[str]) -> str:
    """Equal for configurations that differ in these keys, or groups of keys, alone."""
    kept = {
        key: value
        for key, value in config_io.flatten(config).items()
        if key not in without and key.partition(".")[0] not in without
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def make_state(
    config: Config, sources: Sources, strategy: tf.distribute.Strategy
) -> tuple[list[tf.Variable], Trainer, PseudoSegModel, Optimizer]:
    """Makes what a run has before its first step; returns all its variables, in the order in which they are made."""
    from pseudoseg_tf.assembly import create_model, create_optimizer
    from pseudoseg_tf.trainer import Trainer

    with strategy.scope(), recorded() as state:
        model = create_model(config, sources.info, print)
        optimizer = create_optimizer(config.train, config.runtime.precision)
        optimizer.build(model.trainable_variables)
        trainer = Trainer(config, model, optimizer, strategy, sources)
        trainer.begin_interval()
    return state, trainer, model, optimizer


@contextlib.contextmanager
def recorded() -> Iterator[list[tf.Variable]]:
    """A list of the variables that are made within."""
    import tensorflow as tf

    made: list[tf.Variable] = []

    def creator(following: Callable[..., tf.Variable], **arguments: Any) -> tf.Variable:
        made.append(following(**arguments))
        return made[-1]

    with tf.variable_creator_scope(creator):
        yield made


def write_program(
    config: Config,
    sources: Sources,
    strategy: tf.distribute.Strategy,
    state: Sequence[tf.Variable],
    trainer: Trainer,
    model: PseudoSegModel,
    out: Path,
) -> None:
    """Writes ``step.stablehlo`` and ``program.json``, which says what goes in and out."""
    import tensorflow as tf

    from pseudoseg_tf.cost import forward_passes
    from pseudoseg_tf.data.pipeline import training_dataset
    from pseudoseg_tf.nn.pass_cost import count_pass

    # A directory of lowering that was broken off has no description yet.
    out.mkdir(parents=True, exist_ok=True)
    spec = training_dataset(sources, config.data, config.train.mode, 0).element_spec
    batch_spec = {name: dict(sorted(examples.items())) for name, examples in sorted(spec.items())}

    def step(values: list[tf.Tensor], batch: dict[str, dict[str, tf.Tensor]]) -> list[tf.Tensor]:
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        trainer.train_step(iter([batch]))
        return [variable.read_value() for variable in state]

    state_spec = [tf.TensorSpec(v.shape, v.dtype.base_dtype) for v in state]
    (out / "step.stablehlo").write_bytes(lowered(step, [state_spec, batch_spec]))

    write_json(
        out / "program.json",
        {
            "gigaflop": forward_passes(config)
            * 2e-9
            * count_pass(model, *config.data.crop_size).multiply_accumulates,
            "crop": list(config.data.crop_size),
            "state": [[list(v.shape), v.dtype.base_dtype.name] for v in state],
            "batch": {
                name: {key: [list(each.shape), each.dtype.name] for key, each in examples.items()}
                for name, examples in batch_spec.items()
            },
            "model": _members(state, model),
            "interval": {
                name: next(index for index, v in enumerate(state) if v is variable)
                for name, variable in trainer.interval_variables.items()
            },
            "log_every": config.train.log_every,
            "evaluate_every": config.train.evaluate_every,
            "steps": config.train.steps,
        },
    )


def write_evaluation(
    config: Config, val: Source, state: Sequence[tf.Variable], model: PseudoSegModel, out: Path
) -> None:
    """Writes ``HxW.stablehlo`` for each canvas of the validation images, and ``evaluation.json``."""
    out.mkdir(parents=True, exist_ok=True)
    variables = [state[index] for index in _members(state, model)]
    canvases = {}
    for canvas in sorted(canvas_sizes(val, config.data)):
        name = f"{canvas[0]}x{canvas[1]}.stablehlo"
        (out / name).write_bytes(lower_evaluation(config, model, variables, canvas))
        canvases[name] = canvas
    write_json(out / "evaluation.json", canvases)


def _members(state: Sequence[tf.Variable], model: PseudoSegModel) -> list[int]:
    """The places of the model's variables in the state."""
    in_model = {id(variable) for variable in model.variables}
    return [index for index, variable in enumerate(state) if id(variable) in in_model]


def lower_evaluation(
    config: Config, model: PseudoSegModel, variables: Sequence[tf.Variable], canvas: tuple[int, int]
) -> bytes:
    """From the model's variables, a batch of images on their canvas, their labels and sizes to the pixel counts."""
    import tensorflow as tf

    from pseudoseg_tf.inference import predict_as_configured
    from pseudoseg_tf.metrics import calibration_sums, confusion_matrix

    def evaluate(
        values: list[tf.Tensor], image: tf.Tensor, labels: tf.Tensor, size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        predicted, probabilities = predict_as_configured(model, image, config.data, size)
        return confusion_matrix(labels, predicted, model.num_classes), calibration_sums(labels, probabilities)

    return lowered(
        evaluate,
        [
            [tf.TensorSpec(v.shape, v.dtype.base_dtype) for v in variables],
            tf.TensorSpec([config.data.eval_batch, *canvas, 3], tf.uint8),
            tf.TensorSpec([config.data.eval_batch, *canvas], tf.uint8),
            tf.TensorSpec([config.data.eval_batch, 2], tf.int32),
        ],
    )


def lowered(function: Callable[..., Any], specs: list[Any]) -> bytes:
    """A function of tensors as StableHLO.

    Behind its own inputs the module takes what the variables that it knows hold, behind its results it returns that.
    """
    import tensorflow as tf

    from pseudoseg_tf.nn.layers import for_xla

    flat = tf.nest.flatten(specs)

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    @for_xla()
    def traced(*values: tf.Tensor) -> Any:
        return function(*tf.nest.pack_sequence_as(specs, values))

    return traced.experimental_get_compiler_ir(*flat)(stage="stablehlo_serialized")


def canvas_sizes(source: Source, data: DataConfig) -> set[tuple[int, int]]:
    """The canvases on which the images of a source are evaluated: ``data.eval_size``, or each image's own."""
    from pseudoseg_tf.data.geometry import padded_size

    if any(data.eval_size):
        return {data.eval_size}
    sizes = set()
    for index in range(len(source)):
        image, _ = decode_record(source.read(index), source.info.num_classes)
        sizes.add((padded_size(image.shape[0], 0), padded_size(image.shape[1], 0)))
    return sizes


def draw_examples(source: Source, data: DataConfig, name: str, steps: int) -> dict[str, np.ndarray]:
    """What the input pipeline leaves to chance, for each example of ``steps`` steps: [steps, batch, ...] each."""
    import tensorflow as tf

    from pseudoseg_tf.data.color import strong_draws
    from pseudoseg_tf.data.geometry import geometry_draws
    from pseudoseg_tf.data.pipeline import example_draws

    sizes = tf.constant(
        [decode_record(source.read(i), source.info.num_classes)[1].shape for i in range(len(source))],
        tf.int32,
    )
    batch = data.batch_labeled if name == "labeled" else data.batch_unlabeled
    scales = data.min_scale, data.max_scale, data.scale_step

    def draw(counter: tf.Tensor) -> dict[str, tf.Tensor]:
        index, geometry_seed, strong_seed = example_draws(len(source), data, name, counter)
        draws = geometry_draws(geometry_seed, sizes[index], data.crop_size, *scales)._asdict()
        if name == "unlabeled":
            draws |= strong_draws(strong_seed, data.crop_size, data.jitter_strength)._asdict()
        return {"record": tf.cast(index, tf.int32), **draws}

    drawn = tf.data.Dataset.range(steps * batch).map(draw, num_parallel_calls=tf.data.AUTOTUNE).batch(batch)
    with Progress(steps, f"{name} draws") as progress:
        parts = []
        for part in drawn.batch(100).as_numpy_iterator():
            parts.append(part)
            progress.update(len(part["record"]))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _write_once(out: Path, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Writes each array under a name that goes by its content; returns these names."""
    (out / "arrays").mkdir(parents=True, exist_ok=True)
    names = {}
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()[:16]
        path = out / "arrays" / f"{digest}.npz"
        if not path.exists():
            # Whole or not at all: it would be taken for that array from here on.
            temporary = path.with_suffix(".tmp.npz")
            np.savez_compressed(temporary, value=array)
            os.replace(temporary, path)
        names[name] = path.name
    return names
