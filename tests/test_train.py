"""Training end to end on drawn images: modes, exact resume, two replicas, and the four programs in a row."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.util import event_pb2

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_optimizer, create_schedule, pixel_loss_options
from pseudoseg_tf.checkpoint import checkpoint_directory
from pseudoseg_tf.config import Config, TrainConfig
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.losses import ALL_PIXELS
from pseudoseg_tf.optim import Momentum, PolynomialDecay
from pseudoseg_tf.train import train
from pseudoseg_tf.trainer import Trainer
from tests.folder import CLASS_NAMES, draw_folder, small_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder") / "data"
    draw_folder(root)
    return root


def _quiet(_: str) -> None:
    pass


def _checkpoint(run_dir: Path, which: str = "last") -> dict[str, np.ndarray]:
    """Every variable of the newest checkpoint."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / which))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VARIABLE_VALUE")}


def _tags(directory: Path) -> set[str]:
    """What TensorBoard shows of the summaries in a directory."""
    records = tf.data.TFRecordDataset([str(path) for path in directory.iterdir()])
    events = (event_pb2.Event.FromString(record.numpy()) for record in records)
    return {value.tag for event in events for value in event.summary.value}


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("mode", ["supervised", "weakly"])
def test_a_run_writes_its_records(folder: Path, tmp_path: Path, mode: str) -> None:
    config = small_config(folder, mode)
    (folder / "tags.csv").write_text("3,green\n4,red\n5,green\n")
    if mode == "weakly":
        # Masks of the additional images, too: they score the pseudo labels.
        shutil.copytree(folder / "masks", tmp_path / "masks")
        for record_id in "345":
            with Image.open(folder / f"images/{record_id}.png") as image:
                Image.new("L", image.size, 1).save(tmp_path / f"masks/{record_id}.png")
        overrides = [f"data.image_labels={folder / 'tags.csv'}", f"data.masks={tmp_path / 'masks'}"]
        config = config_io.apply_overrides(config, overrides)
    lines: list[str] = []
    result = train(config, str(tmp_path / "run"), lines.append)
    assert any(
        line.startswith("model.atrous_rates=6,12,18: crops of 33x33 pixels are too small") for line in lines
    )
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [4, 6]
    assert result["last"] == history[-1]
    assert result["best"]["miou"] == max(entry["miou"] for entry in history)
    assert set(history[0]["iou"]) == set(CLASS_NAMES)
    training = [json.loads(line) for line in (tmp_path / "run/training.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in training] == [2, 4, 6]
    terms = {name.removeprefix("loss/") for name in training[0] if name.startswith("loss/")}
    extra = {"consistency", "classification", "attention"} if mode == "weakly" else set()
    assert terms == {"total", "supervised", "decay"} | extra
    total = training[0]["loss/total"]
    assert total == pytest.approx(sum(training[0][f"loss/{name}"] for name in terms - {"total"}), rel=1e-5)
    assert (tmp_path / "run/pictures").exists() == (mode == "weakly")
    shown = {f"loss/{name}" for name in terms} | {"learning_rate", "images_per_second", "steps_per_second"}
    if mode == "weakly":
        shown |= {"pseudo_labels", "reliability"}
        shown |= {
            f"{name}/{key}"
            for name in ("pseudo", "decoder", "sgc")
            for key in ("miou", "pixel_accuracy", "ece")
        }
    assert _tags(tmp_path / "run/summaries/train") == shown
    assert sum("validation mIoU" in line for line in lines) == 2
    assert int(_checkpoint(tmp_path / "run")["step/.ATTRIBUTES/VARIABLE_VALUE"]) == 6


@pytest.mark.usefixtures("tiny_backbone")
def test_bad_examples_stop_the_run_or_are_left_out(folder: Path, tmp_path: Path) -> None:
    """A run that stopped goes on without the picture, and the list has it once after another start."""
    damaged = tmp_path / "data"
    shutil.copytree(folder, damaged)
    path = damaged / "images/1.png"
    path.write_bytes(path.read_bytes()[:-100])
    run = tmp_path / "run"
    config = small_config(damaged, "supervised", steps=4)
    with pytest.raises(tf.errors.OpError, match=f"UserError: image {path}: damaged"):
        train(config, str(run), _quiet)
    config = config_io.apply_overrides(config, ["data.on_bad_example=skip"])

    def stop_at_two(line: str) -> None:
        if line.startswith("left out"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, str(run), stop_at_two)
    lines: list[str] = []
    train(config, str(run), lines.append)
    assert not any(line.startswith("left out") for line in lines)
    (listed,) = (run / "bad_examples.txt").read_text().splitlines()
    assert listed.startswith(f"1\timage {path}: damaged (")
    lines.clear()
    train(config, str(tmp_path / "unbroken"), lines.append)
    assert sum(line.startswith(f"left out: image {path}: damaged (") for line in lines) == 1
    ours, theirs = _checkpoint(run), _checkpoint(tmp_path / "unbroken")
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.usefixtures("tiny_backbone")
def test_a_finished_run_is_left_alone(folder: Path, tmp_path: Path) -> None:
    config = small_config(folder, "supervised", steps=2)
    first = train(config, str(tmp_path), _quiet)
    before = _checkpoint(tmp_path)
    lines: list[str] = []
    assert train(config, str(tmp_path), lines.append) == first
    assert lines[-1].startswith("finished already, nothing to train; step 2: validation mIoU")
    for name, value in _checkpoint(tmp_path).items():
        np.testing.assert_array_equal(value, before[name])

    # Killed before its best checkpoint was written, which is that of the last step: it is written now.
    shutil.rmtree(tmp_path / "checkpoints/best")
    train(config, str(tmp_path), _quiet)
    assert _checkpoint(tmp_path, "best").keys() == before.keys()
    # The best one was of another step, whose checkpoint is lost.
    history = tmp_path / "history.jsonl"
    history.write_text(json.dumps({**first["last"], "step": 1, "miou": 0.99}) + "\n" + history.read_text())
    lines.clear()
    assert train(config, str(tmp_path), lines.append)["best"]["step"] == 1
    assert "the best checkpoint, of step 1, is lost; the best from here on will be kept" in lines


def test_a_run_that_cannot_begin_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    config = config_io.apply_overrides(small_config(folder, "supervised"), ["init.weights=absent.npz"])
    with pytest.raises(UserError, match=r"absent\.npz: no such file"):
        train(config, str(tmp_path / "run"), _quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_backbone")
def test_another_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    train(small_config(folder, "supervised", steps=2), str(tmp_path), _quiet)
    with pytest.raises(UserError, match=r"another configuration .*train.steps was '2', now '4'"):
        train(small_config(folder, "supervised", steps=4), str(tmp_path), _quiet)


@pytest.mark.usefixtures("tiny_backbone")
def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    config = config_io.apply_overrides(small_config(folder, "supervised"), ["train.learning_rate=1e30"])
    with pytest.raises(UserError, match=r"not finite.*train.learning_rate"):
        train(config, str(tmp_path), _quiet)


# The names of the reference's arguments, and ours.
_SCHEDULE_ARGUMENTS = {
    "learning_policy": "learning_policy",
    "base_learning_rate": "learning_rate",
    "learning_rate_decay_step": "step_decay_every",
    "learning_rate_decay_factor": "step_decay_factor",
    "training_number_of_steps": "steps",
    "learning_power": "power",
    "slow_start_step": "slow_start_steps",
    "slow_start_learning_rate": "slow_start_learning_rate",
    "decay_steps": "decay_steps",
    "end_learning_rate": "end_learning_rate",
}


@pytest.mark.needs_shared
@pytest.mark.parametrize("graph", [False, True])
def test_schedule_repeats_the_reference(shared_dir: Path, graph: bool) -> None:
    cases = json.loads((shared_dir / "reference/A/schedule.json").read_text())
    assert {case["args"]["learning_policy"] for case in cases} == {"poly", "step"}
    for case in cases:
        values = {_SCHEDULE_ARGUMENTS[name]: value for name, value in case["args"].items()}
        schedule = create_schedule(TrainConfig(**values))
        function = tf.function(schedule) if graph else schedule
        rates = [float(function(tf.constant(step, tf.int64))) for step in case["steps"]]
        np.testing.assert_allclose(rates, case["learning_rate"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [0.8, 0.6, 0.4, 0.2, 0]),
        ({"power": 2.0, "end_learning_rate": 0.3}, [0.8, 0.58125, 0.425, 0.33125, 0.3]),
        ({"decay_steps": 4, "slow_start_steps": 2, "slow_start_learning_rate": 0.1}, [0.1, 0.8, 0.4, 0, 0]),
        ({"slow_start_steps": 4}, [1e-4, 1e-4, 0.8, 0.4, 0]),
        (
            {"learning_policy": "step", "step_decay_every": 4, "step_decay_factor": 0.5},
            [0.8, 0.8, 0.4, 0.4, 0.2],
        ),
        (
            {"learning_policy": "step", "step_decay_every": 4, "slow_start_steps": 1},
            [1e-4, 0.8, 0.8, 0.08, 0.08],
        ),
    ],
)
def test_schedule_of_eight_steps(options: dict[str, Any], rates: list[float]) -> None:
    schedule = create_schedule(TrainConfig(**{"steps": 8, "learning_rate": 0.8, "power": 1.0, **options}))
    assert [float(schedule(step)) for step in (0, 2, 4, 6, 8)] == pytest.approx(rates, rel=1e-6, abs=1e-8)


def test_adam_has_its_own_constant_rate() -> None:
    train_config = TrainConfig(optimizer="adam", adam_learning_rate=0.5, adam_epsilon=1.0, steps=1)
    optimizer = create_optimizer(train_config)
    variable = tf.Variable(0.0)
    for _ in range(3):
        optimizer.apply_gradients([(tf.constant(0.0), variable)])
        assert float(optimizer.learning_rate) == 0.5
    assert optimizer.get_config()["epsilon"] == 1.0


def test_pixel_options_of_a_configuration() -> None:
    values = TrainConfig(
        upsample_logits=False, label_weights=(1.0, 2.0), top_k_percent_pixels=0.5, hard_example_mining_step=4
    )
    options = pixel_loss_options(values, 1)
    assert options[:2] == (False, (1.0, 2.0)) and float(options.hardest) == 0.875
    assert pixel_loss_options(TrainConfig(), 1) == ALL_PIXELS


def test_label_weights_of_another_number_of_classes(folder: Path, tmp_path: Path) -> None:
    config = config_io.apply_overrides(small_config(folder), ["train.label_weights=1,2"])
    with pytest.raises(
        UserError, match=r"^train\.label_weights: found '1\.0,2\.0' .* each of the 3 classes$"
    ):
        train(config, str(tmp_path / "run"), _quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_backbone")
def test_options_of_optimizer_and_pixel_losses_continue_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    overrides = ["optimizer=adam", "upsample_logits=false", "label_weights=100,100,100"]
    overrides += ["top_k_percent_pixels=0.25", "hard_example_mining_step=4"]
    config = config_io.apply_overrides(
        small_config(folder, "supervised"), [f"train.{override}" for override in overrides]
    )

    sources = open_sources(config.data, config.train.mode)
    # Outside of any graph: tracing would take most of the time.
    batches = iter(pipeline.training_dataset(sources, config.data, config.train.mode, 0))
    first, second, third = (next(batches) for _ in range(3))

    def begin() -> tuple[Trainer, tf.train.Checkpoint, list[tf.Variable]]:
        model = create_model(config, sources.info)
        optimizer = create_optimizer(config.train)
        optimizer.build(model.trainable_variables)
        strategy = tf.distribute.OneDeviceStrategy("CPU:0")
        saved = tf.train.Checkpoint(model=model, optimizer=optimizer)
        return Trainer(config, model, optimizer, strategy, sources), saved, model.variables

    trainer, saved, unbroken = begin()
    trainer._step(first)
    # Fresh logits of three classes cost log(3) a pixel, here a hundred times.
    assert 90 < float(trainer._losses["supervised"].result()) < 130
    path = saved.save(str(tmp_path / "ckpt"))
    another, restored, resumed = begin()
    restored.restore(path).assert_existing_objects_matched()
    for batch in (second, third):
        trainer._step(batch)
        another._step(batch)
    for ours, theirs in zip(resumed, unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


@pytest.mark.usefixtures("tiny_backbone")
def test_a_run_without_a_background_is_evaluated_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    """Class 0 trains the classifier, and whoever opens the run builds the same network."""
    config = config_io.apply_overrides(
        small_config(folder, "weakly", steps=1),
        ["data.background=none", f"data.unlabeled={folder / 'labeled.txt'}"],
    )
    results = train(config, str(tmp_path / "run"), _quiet)
    assert evaluate(str(tmp_path / "run"))["miou"] == pytest.approx(results["last"]["miou"], rel=1e-6)
    kernel = tf.train.load_variable(
        checkpoint_directory(str(tmp_path / "run"), "last"),
        "model/classifier/kernel/.ATTRIBUTES/VARIABLE_VALUE",
    )
    assert kernel.shape[-1] == len(CLASS_NAMES)


def test_last_layers_are_the_logits_and_the_classifier(folder: Path) -> None:
    config = config_io.apply_overrides(small_config(folder), ["train.last_layer_multiplier=10"])
    sources = open_sources(config.data, config.train.mode)
    model = create_model(config, sources.info)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    trainer = Trainer(config, model, create_optimizer(config.train), strategy, sources)
    factors = {
        variable.name.split(":")[0].removeprefix("pseudoseg/"): factor
        for variable, factor in zip(model.trainable_variables, trainer._multipliers, strict=True)
    }
    assert {name: factor for name, factor in factors.items() if factor != 1.0} == {
        "deeplab_head/decoder/logits/kernel": 10.0,
        "deeplab_head/decoder/logits/bias": 20.0,
        "image_logits/kernel": 10.0,
        "image_logits/bias": 20.0,
    }


def _steps(
    count: int, config: Config, strategy: tf.distribute.Strategy
) -> tuple[dict[str, float], list[np.ndarray]]:
    sources = open_sources(config.data, config.train.mode)
    with strategy.scope():
        model = create_model(config, sources.info)
        optimizer = Momentum(PolynomialDecay(0.02, 100), 0.9)
        optimizer.build(model.trainable_variables)
    trainer = Trainer(config, model, optimizer, strategy, sources)
    trainer.start_at(0)
    output = trainer.train(tf.constant(count)) if count else {}
    return output, [variable.numpy() for variable in model.variables]


@pytest.mark.usefixtures("tiny_backbone")
def test_a_run_goes_on_with_its_classes_and_images_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    data, run = tmp_path / "data", tmp_path / "run"
    config = small_config(data, "unlabeled", steps=2)
    train(config, str(run), _quiet)
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    assert run / "examples.json" in before
    for name, text, message in (
        (
            "classes",
            "background\ngreen\nred\n",
            "run: trained with the classes background, red, green, but .* green, red;",
        ),
        (
            "classes",
            "background\nred\ngreen\nblue\n",
            "run: trained with the classes background, red, green, but",
        ),
        (
            "labeled",
            "0\n1\n",
            "run: data.labeled has 2 images, other ones or in another order than the 3 that",
        ),
        (
            "unlabeled",
            "4\n3\n5\n",
            "run: data.unlabeled has 3 images, other ones or in another order than the 3",
        ),
        ("val", "6\n", "run: data.val has 1 images, other ones or in another order than the 2 "),
    ):
        whole = (data / f"{name}.txt").read_text()
        (data / f"{name}.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            train(config, str(run), _quiet)
        (data / f"{name}.txt").write_text(whole)
    changed = config_io.apply_overrides(config, ["data.background=none"])
    with pytest.raises(
        UserError, match=r"run: trained with a background, and the data now has it otherwise; restore"
    ):
        train(changed, str(run), _quiet)
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    train(config, str(run), _quiet)


@pytest.mark.usefixtures("tiny_backbone")
def test_the_score_of_two_replicas_is_that_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Each has seen other images, of which its moving statistics alone would tell."""
    overrides = ["runtime.strategy=mirrored", "data.batch_labeled=4", "train.evaluate_every=2"]
    overrides += ["model.batch_norm_decay=0.5", "train.learning_rate=0.1"]
    config = config_io.apply_overrides(small_config(folder, "supervised", steps=4), overrides)
    scored = train(config, str(tmp_path / "run"), _quiet)["last"]
    found = evaluate(str(tmp_path / "run"))
    for name in ("miou", "pixel_accuracy", "ece"):
        assert found[name] == pytest.approx(scored[name], rel=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["supervised", "unlabeled", "weakly"])
def test_two_replicas_equal_one_on_the_same_global_batch(
    folder: Path, mode: str, two_replicas: tf.distribute.Strategy
) -> None:
    config = small_config(folder, mode)
    # Weakly mode takes the image-level labels of this test from masks: label the pool.
    if mode == "weakly":
        config = config_io.apply_overrides(config, [f"data.unlabeled={folder / 'labeled.txt'}"])
    model = dataclasses.replace(config.model, synchronized_batch_norm=True, aspp_keep_prob=1.0)
    # Batch norm over the two pooled vectors of a batch of two would blow rounding errors up.
    data = dataclasses.replace(config.data, batch_labeled=6, batch_unlabeled=6)
    config = dataclasses.replace(config, model=model, data=data)
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    _, first = _steps(0, config, one_device)
    one, weights = _steps(1, config, one_device)
    two, mirrored = _steps(1, config, two_replicas)
    for name in one:
        if name.startswith("loss/"):
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name

    # A share of the batch counted twice or not at all changes updates by a third or more. Rounding alone, measured
    # on one replica with the same batch in reverse order, changes half of the variables by less than 1e-4 of
    # their update, and single ones, of tiny updates, by a tenth.
    update, difference = (
        np.array([np.linalg.norm(b - a) for a, b in zip(old, new, strict=True)])
        for old, new in ((first, weights), (weights, mirrored))
    )
    assert np.median(difference / np.maximum(update, 1e-12)) < 1e-3
    assert (difference <= 0.15 * update + 1e-6).all()


@pytest.mark.slow
def test_step_compiles_under_xla_and_matches(folder: Path) -> None:
    config = small_config(folder)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, aspp_keep_prob=1.0))
    compiled = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, jit=True))
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    plain, fast = (_steps(1, each, strategy)[0] for each in (config, compiled))
    for name in plain:
        if name.startswith("loss/"):
            assert fast[name] == pytest.approx(plain[name], rel=1e-4), name


def _program(name: str, *flags: str) -> None:
    command = [sys.executable, "-m", f"pseudoseg_tf.cli.{name}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_train_evaluate_export_predict(folder: Path, tmp_path: Path) -> None:
    run_dir, model_dir, out = tmp_path / "run", tmp_path / "model", tmp_path / "out"
    # Scales and flip of the run hold in training, evaluation and export alike.
    config = config_io.apply_overrides(
        small_config(folder, "supervised", steps=2), ["data.eval_scales=0.75", "data.eval_flip=true"]
    )
    overrides = [
        f"--set={key}={config_io.as_text(value)}"
        for key, value in config_io.flatten(config).items()
        if value != config_io.flatten(Config())[key]
    ]
    _program("train", "--preset=folder", f"--run_dir={run_dir}", "--set=init.weights=", *overrides)
    _program("evaluate", f"--run_dir={run_dir}", "--checkpoint=last")
    metrics: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    assert {"miou", "pixel_accuracy", "ece", "iou", "step", "checkpoint", "images"} <= set(metrics)
    history = json.loads((run_dir / "history.jsonl").read_text().splitlines()[-1])
    assert metrics["step"] == history["step"] == 2
    assert metrics["iou"] == history["iou"]
    assert metrics["ece"] == pytest.approx(history["ece"], abs=1e-9)

    _program("export", f"--run_dir={run_dir}", f"--out={model_dir}", "--checkpoint=last")
    _program("predict", f"--model={model_dir}", f"--images={folder / 'images'}", f"--out={out}")
    assert {path.name for path in out.glob("*.png")} >= {f"{index}.png" for index in range(8)}
    # The exported model's labels give the pixel accuracy of the evaluation.
    right = total = 0
    for index in (6, 7):
        labels = np.asarray(Image.open(folder / f"masks/{index}.png"))
        prediction = Image.open(out / f"{index}.png")
        assert prediction.mode == "P"
        right += int((np.asarray(prediction) == labels).sum())
        total += labels.size
    assert right / total == pytest.approx(metrics["pixel_accuracy"], abs=1e-12)
