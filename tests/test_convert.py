"""pseudoseg-convert: tables, runs from TensorFlow 1 checkpoints and back, and mistakes as a user meets them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.checkpoint import checkpoint_directory
from pseudoseg_tf.cli.plan import plan
from pseudoseg_tf.config import Config
from pseudoseg_tf.convert import from_tf1, inspect_tf1, to_tf1
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.export import export
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.presets import preset
from pseudoseg_tf.tf1_checkpoint import guess_network, tf1_shape, tf1_variables
from pseudoseg_tf.tf1_files import Tf1Checkpoint
from pseudoseg_tf.train import train
from tests import tf1
from tests.folder import draw_folder, small_config

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 3


def run_convert(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pseudoseg_tf.cli.convert", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder") / "data"
    draw_folder(root)
    return root


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    # Dropout's random states have no place in a TensorFlow 1 checkpoint: without it, runs can be compared.
    return config_io.apply_overrides(
        small_config(folder, "supervised", steps=4), ["model.aspp_keep_prob=1", "data.eval_size=65"]
    )


@pytest.fixture(scope="module")
def theirs(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a checkpoint as the authors' code would leave it for the network of ``config``."""
    values = tf1.random_values(
        build_model(CLASSES, **dataclasses.asdict(config.model), seed=config.train.seed)
    )
    values = {
        name: abs(value) if name.endswith("variance") else 0.1 * value for name, value in values.items()
    }
    values |= tf1.momenta(values) | {"global_step": np.int64(2)}
    directory = tmp_path_factory.mktemp("theirs")
    tf1.save(directory / "model.ckpt-2", values, state=True)
    return directory


def assert_same_checkpoint(one: Path, other: Path, step: int, apart_from: tuple[str, ...] = ()) -> None:
    """The checkpoints of both runs hold the same, to the last bit, but for the save counter."""

    def variables(run_dir: Path) -> dict[str, np.ndarray]:
        directory = Path(checkpoint_directory(str(run_dir), "last"))
        reader = tf.train.load_checkpoint(str(directory / f"ckpt-{step}"))
        names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
        # The sums behind the next console line, of which a converted checkpoint has none.
        return {name: reader.get_tensor(name) for name in names if not name.startswith("interval/")}

    expected, found = variables(one), variables(other)
    assert expected.keys() == found.keys()
    for name in expected:
        if not name.startswith(("save_counter", *apart_from)):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_run_by_way_of_tensorflow_1_continues_bit_for_bit(config: Config, tmp_path: Path) -> None:
    ours, converted = tmp_path / "ours", tmp_path / "converted"
    expected = train(config, str(ours), _quiet)
    prefix = str(tmp_path / "tf1" / "model.ckpt-2")
    half_way = f"{ours}/checkpoints/last/ckpt-2"
    assert to_tf1(str(ours), prefix, half_way) == half_way
    assert int(Tf1Checkpoint(prefix).read("global_step")) == 2
    line = from_tf1(prefix, str(converted), config, "folder")
    assert line == f"{prefix}, step 2; {len(Tf1Checkpoint(prefix).shapes)} variables loaded"

    assert sorted(path.name for path in converted.iterdir()) == ["checkpoints", "config.json", "dataset.json"]
    written, first = (json.loads((run / "config.json").read_text()) for run in (converted, ours))
    assert written == {**first, "preset": "folder"}
    assert (converted / "dataset.json").read_text() == (ours / "dataset.json").read_text()
    # The rate of the latest step is for the console alone.
    assert_same_checkpoint(ours, converted, 2, apart_from=("optimizer/_current_learning_rate",))

    lines: list[str] = []
    assert train(config, str(converted), lines.append)["last"] == expected["last"]
    assert lines[0].startswith("continues at step 2 ")
    assert_same_checkpoint(ours, converted, 4)


def test_a_checkpoint_of_the_authors_becomes_a_run(config: Config, theirs: Path, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    shorter = config_io.apply_overrides(config, ["train.steps=2"])
    from_tf1(str(theirs), run_dir, shorter)
    scores = evaluate(run_dir, "last")
    assert scores["step"] == 2
    assert export(run_dir, str(tmp_path / "model"), "last", compare=0).checkpoint.endswith("last/ckpt-2")
    with pytest.raises(
        UserError, match=r"at step 2 of train\.steps=2 already, .* pseudoseg-evaluate scores it"
    ):
        train(shorter, run_dir, _quiet)
    # And back, under the same names.
    to_tf1(run_dir, str(tmp_path / "back/model.ckpt"))
    back, first = Tf1Checkpoint(str(tmp_path / "back")), Tf1Checkpoint(str(theirs))
    assert back.shapes == first.shapes
    for name in first.shapes:
        np.testing.assert_array_equal(back.read(name), first.read(name), err_msg=name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.optimizer=adam"], r"trained with momentum, the configuration has train\.optimizer=adam$"),
        (
            ["data.classes=CLASSES"],
            r"the model needs 1x1x256x3 \(another number of classes\), and 7 more like",
        ),
        (["model.attention_dim=16"], r"another model\.attention_dim, model\.hypercolumn or"),
        (
            ["model.backbone=resnet_v1_50", "model.width_multiplier=1"],
            r"it looks like one of mobilenet_v1, the",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_makes_no_run(
    config: Config, theirs: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "classes.txt").write_text("background\na\nb\nc\n")
    overrides = [override.replace("CLASSES", str(tmp_path / "classes.txt")) for override in overrides]
    with pytest.raises(UserError, match=message) as error:
        from_tf1(str(theirs), str(tmp_path / "run"), config_io.apply_overrides(config, overrides))
    assert str(error.value).startswith(f"{theirs / 'model.ckpt-2'}: does not fit the model: ")
    assert [path.name for path in tmp_path.iterdir()] == ["classes.txt"]


def test_a_directory_in_use_is_refused(config: Config, theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists already; name a directory that is absent or empty"):
        from_tf1(str(theirs), str(tmp_path), config)
    with pytest.raises(UserError, match=r"no config\.json here"):
        to_tf1(str(tmp_path), str(tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match=r"model\.ckpt-2\.index: exists already"):
        to_tf1(str(tmp_path), str(theirs / "model.ckpt-2"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_table_of_a_checkpoint(theirs: Path) -> None:
    lines = inspect_tf1(str(theirs)).splitlines()
    shapes = Tf1Checkpoint(str(theirs)).shapes
    assert lines[:3] == [
        f"{theirs / 'model.ckpt-2'}: {len(shapes)} variables",
        "names and shapes tell: backbone=mobilenet_v1, aspp_channels=8, decoder_channels=8, attention_dim=8, "
        "num_classes=3, attention_v2=true, width_multiplier=0.25, atrous_rates=6,12,18",
        "compared with: mobilenet_v1, 3 classes",
    ]
    start = 5
    assert [line.split()[0] for line in lines[start : start + len(shapes)]] == sorted(shapes)
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[start : start + len(shapes)]}
    assert (
        table["MobilenetV1/Conv2d_0/weights"]
        == "3x3x3x8 loaded: pseudoseg/mobilenet_v1/conv1_unit/conv1/kernel"
    )
    assert table["global_step"] == "scalar skipped: the step"
    assert table["aspp0/weights/Momentum"] == "1x1x256x8 skipped: of the optimizer"
    assert (
        table["logits/semantic/biases"] == "3 skipped: of the last layers (init.last_layers=true loads them)"
    )
    rest = lines[start + len(shapes) + 2 :]
    assert [line.split()[0] for line in rest[:4]] == [
        "logits/semantic/weights",
        "logits/semantic/biases",
        "MobilenetV1/logits/weights",
        "MobilenetV1/logits/biases",
    ]
    assert rest[1].split()[1:] == ["3", "random:", "decoder", "logits"]
    assert rest[-2].startswith("as first weights (init.weights): ")
    assert rest[-1] == f"as a trained run (--from): {len(shapes)} variables loaded"


def test_table_for_another_network(theirs: Path, tmp_path: Path) -> None:
    text = inspect_tf1(str(theirs), num_classes=4)
    assert "compared with: mobilenet_v1, 4 classes\n" in text
    assert "skipped: of another number of classes (3 there, 4 here)\n" in text
    assert "\nas a trained run (--from): refused, " in text
    text = inspect_tf1(str(theirs), "resnet_v1_50")
    assert "left over: no such variable in the model\n" in text
    assert "(init.weights): refused, it looks like one of mobilenet_v1, the model has resnet_v1_50" in text
    unknown = tf1.save(
        tmp_path / "model.ckpt", {"xception_71/conv/weights": np.zeros([1, 1, 2, 2], np.float32)}
    )
    with pytest.raises(
        UserError, match=r"no backbone known here \(such as xception_71/conv/weights\); give --b"
    ):
        inspect_tf1(unknown)


def test_plan_checks_the_first_weights(config: Config, theirs: Path, tmp_path: Path) -> None:
    def planned(weights: str, continues: bool = False) -> str:
        changed = config_io.apply_overrides(config, [f"init.weights={weights}"])
        return " ".join(plan(changed, str(tmp_path / "run"), continues).split())

    assert f"first weights from {theirs / 'model.ckpt-2'}: " in planned(str(theirs))
    with pytest.raises(UserError, match=r"^init\.weights: absent/model\.ckpt: no TensorFlow 1 checkpoint"):
        planned("absent/model.ckpt")
    with pytest.raises(UserError, match=r"^init\.weights: absent\.npz: no such file"):
        planned("absent.npz")
    # A run that continues needs them no more.
    assert "first weights" not in planned("absent/model.ckpt", continues=True)


def test_training_begins_with_the_checkpoint(config: Config, theirs: Path, tmp_path: Path) -> None:
    config = config_io.apply_overrides(config, [f"init.weights={theirs}", "init.last_layers=true"])
    lines: list[str] = []
    model = create_model(config, open_sources(config.data, "supervised").info, lines.append)
    assert len(lines) == 1 and lines[0].startswith(f"first weights from {theirs / 'model.ckpt-2'}: ")
    found = Tf1Checkpoint(str(theirs)).read("logits/semantic/biases")
    np.testing.assert_array_equal(model.head.decoder.logits.bias, found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "found none of them; give one of --inspect, --from and --to (--help shows examples)"),
        (["--from=x", "--to=y"], "found --from and --to; give one of"),
        (["--inspect"], "--checkpoint: missing; name a TensorFlow 1 checkpoint"),
        (
            ["--inspect", "--checkpoint=x", "--backbone=resnet"],
            "--backbone: found 'resnet', must be one of mob",
        ),
        (["--inspect", "--checkpoint=x", "--classes=1"], "--classes: found 1, must be from 2 to 256"),
        (
            ["--inspect", "--checkpoint=x", "--run_dir=y"],
            "--run_dir: has no meaning with --inspect; leave it",
        ),
        (["--from=x"], "--run_dir: missing; name the directory to write"),
        (["--from=x", "--run_dir=y"], "--preset: missing; the experiment of the run; presets: folder, "),
        (["--from=x", "--run_dir=y", "--preset=shape"], "preset 'shape': unknown; nearest: shapes"),
        (["--from=x", "--run_dir=y", "--preset=folder"], "data.images: found ''"),
        (
            ["--from=x", "--run_dir=y", "--preset=shapes", "--checkpoint=z"],
            "--checkpoint: has no meaning with",
        ),
        (["--to=x"], "--run_dir: missing; name the directory that pseudoseg-train wrote"),
        (["--to=x", "--run_dir=y", "--set=a=b"], "--set: has no meaning with --to; leave it out"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(flags: list[str], message: str) -> None:
    done = run_convert(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_help_shows_examples_and_own_flags() -> None:
    done = run_convert("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "pseudoseg-convert --inspect --checkpoint=zoo/xception_65/model.ckpt\n" in done.stdout
    for own in (
        "--inspect",
        "--from",
        "--to",
        "--checkpoint",
        "--backbone",
        "--classes",
        "--preset",
        "--set",
    ):
        assert f"\n  {own}\n" in done.stdout


@pytest.mark.slow
def test_the_program(config: Config, theirs: Path, tmp_path: Path) -> None:
    default = config_io.flatten(preset("folder"))
    overrides = [
        f"--set={key}={config_io.as_text(value)}"
        for key, value in config_io.flatten(config).items()
        if value != default[key] and not key.startswith("init.")
    ]
    flags = [f"--from={theirs}", f"--run_dir={tmp_path / 'run'}", "--preset=folder", *overrides]
    done = run_convert(*flags)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    count = len(Tf1Checkpoint(str(theirs)).shapes)
    assert done.stdout == (
        f"{tmp_path / 'run'}: run of {theirs / 'model.ckpt-2'}, step 2; {count} variables loaded\n"
        "not in the checkpoint, so they must be those it was trained with: "
        "model.output_stride=16, model.atrous_rates=6,12,18, model.multi_grid=1,1,1\n"
    )
    # Without the preset's first weights.
    assert config_io.load(tmp_path / "run") == config

    done = run_convert(f"--to={tmp_path / 'out/model.ckpt'}", f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == (
        f"{tmp_path / 'out/model.ckpt'}: TensorFlow 1 checkpoint of {tmp_path / 'run/checkpoints/last/ckpt-2'}\n"
    )
    assert Tf1Checkpoint(str(tmp_path / "out")).shapes == Tf1Checkpoint(str(theirs)).shapes

    # Our own checkpoint by mistake.
    done = run_convert("--inspect", f"--checkpoint={tmp_path / 'run/checkpoints/last'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a TensorFlow 2 checkpoint of objects, as pseudoseg-train writes them" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_network_is_told_from_its_names() -> None:
    options = {"aspp_channels": 8, "decoder_channels": 16, "attention_dim": 4, "atrous_rates": (6, 12)}
    model = build_model(5, "mobilenet_v1", width_multiplier=0.5, attention_v2=False, **options)
    shapes = {name: tf1_shape(variable) for name, variable in tf1_variables(model).items()}
    expected = {"backbone": "mobilenet_v1", "num_classes": 5, "width_multiplier": 0.5, "attention_v2": False}
    assert guess_network(shapes) == expected | options
