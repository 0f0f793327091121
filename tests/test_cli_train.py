"""pseudoseg-train as a user meets it: help, mistakes, the dry run; and what all programs share."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf.cli._app import user_message
from pseudoseg_tf.cli.plan import plan
from pseudoseg_tf.config import Config, RuntimeConfig
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.nn.pass_cost import count_pass
from pseudoseg_tf.presets import preset

ROOT = Path(__file__).resolve().parents[1]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The programs choose TensorFlow's log level themselves.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def run_train(*flags: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "pseudoseg_tf.cli.train", *flags)


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Overrides for a folder of four images of 20x30, three of them with masks."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(4):
        Image.fromarray(np.full([20, 30, 3], 60 * index, np.uint8)).save(tmp_path / f"images/{index}.png")
        if index < 3:
            Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(tmp_path / f"masks/{index}.png")
    lists = {"classes": "background\nthing\n", "labeled": "0\n1\n", "unlabeled": "3\n0\n1\n", "val": "2\n"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    files = [f"data.{name}={tmp_path / name}.txt" for name in lists]
    return [f"data.images={tmp_path / 'images'}", f"data.masks={tmp_path / 'masks'}", *files]


def small(overrides: list[str], *more: str) -> Config:
    tiny = [
        "init.weights=",
        "model.width_multiplier=0.25",
        "model.aspp_channels=8",
        "model.decoder_channels=8",
    ]
    return config_io.apply_overrides(preset("folder"), [*tiny, *overrides, *more])


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_shows_examples_and_own_flags(flag: str) -> None:
    done = run_train(flag)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "pseudoseg-train --preset=shapes --run_dir=runs/shapes\n" in done.stdout
    for own in ("--preset", "--run_dir", "--set", "--dry_run"):
        assert f"\n  {own}\n" in done.stdout
    assert "folder, shapes, voc12" in done.stdout
    assert "--logtostderr" not in done.stdout


def test_help_of_the_installed_program_is_the_same() -> None:
    as_script = (
        "import sys; sys.argv = ['pseudoseg-train', '--help']; import pseudoseg_tf.cli.train as m; m.run()"
    )
    assert run_python("-c", as_script).stdout == run_train("--help").stdout


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--rundir=x"], ["Unknown command line flag 'rundir'", "run_dir", "--help"]),
        (["runs/x"], ["'runs/x'", "every input is a flag"]),
        (["--preset=shapes"], ["--run_dir: missing"]),
        (["--run_dir=DIR"], ["--preset: missing", "shapes"]),
        (["--run_dir=DIR", "--preset=shape"], ["'shape'", "nearest: shapes"]),
        (["--run_dir=DIR", "--preset=shapes", "--set", "train.stpes=1"], ["nearest: train.steps"]),
        (["--run_dir=DIR", "--preset=shapes", "--set", "train.steps=0"], ["train.steps: found '0'"]),
        (["--run_dir=DIR", "--preset=folder"], ["data.images: found ''"]),
        (["--run_dir=DIR", "--preset=shapes", "--set", "data.exclude_labeled=1"], ["'1'", "true or false"]),
        (["--run_dir=DIR", "--preset=shapes", "--dry_run=perhaps"], ["dry_run", "perhaps"]),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], parts: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = run_train(*(flag.replace("DIR", str(run_dir)) for flag in flags))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert not run_dir.exists()


@pytest.mark.parametrize(("value", "found"), [("x", ", found 'x'"), ("nan", "")])
def test_flags_that_are_no_numbers_say_so_in_our_words(value: str, found: str) -> None:
    done = run_python("-m", "pseudoseg_tf.cli.export", f"--min_same_class={value}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: flag --min_same_class={value}: must be a number{found} (--help")


def test_run_of_another_configuration_is_refused(folder: list[str], tmp_path: Path) -> None:
    config_io.save(tmp_path / "run", "folder", small(folder))
    done = run_train(f"--run_dir={tmp_path / 'run'}", "--set", "train.steps=7")
    assert done.returncode == 2
    assert "another configuration (train.steps was '4000', now '7')" in done.stderr
    assert "a longer run is another one" in done.stderr


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\b"])
def test_a_directory_whose_checkpoints_could_not_be_read(
    folder: list[str], tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match=r"by which TensorFlow means a pattern of names; take a name without"):
        config_io.check_run_dir(tmp_path / name, small(folder))


@pytest.mark.parametrize("key", ["images", "masks"])
def test_images_and_masks_are_no_run_directory(folder: list[str], tmp_path: Path, key: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / key)
    before = sorted(tmp_path.rglob("*"))
    for name in (key, "link"):
        with pytest.raises(UserError, match=rf"{name}: the folder of data\.{key}; name another directory"):
            config_io.check_run_dir(tmp_path / name, small(folder))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_home_directory_is_found_behind_an_equals_sign(
    folder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the shell leaves the tilde alone; one within a name is part of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    home = [override.replace(f"={tmp_path}/", "=~/") for override in folder]
    assert "data.images=~/images" in home
    flags = [f"--set={override}" for override in home[:-1]] + ["--set", home[-1], "--set=init.weights="]
    for given, meant in (("~/run", f"{tmp_path}/run"), (f"{tmp_path}/a~/run", f"{tmp_path}/a~/run")):
        done = run_train("--preset=folder", f"--run_dir={given}", "--dry_run", *flags)
        assert done.returncode == 0, done.stderr
        assert f"run directory: {meant} (new)" in " ".join(done.stdout.split())


def test_a_reader_that_leaves_ends_the_program_without_a_word() -> None:
    """As head does after its lines."""
    for arguments in (
        ["-m", "pseudoseg_tf.cli.train", "--help"],
        ["-m", "pseudoseg_tf.cli.experiment", "list"],
    ):
        program = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        said = program.stderr.read()
        program.stderr.close()
        assert (program.wait(), said) == (141, "")


def test_dry_run_of_the_program(folder: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    flags = [f"--set={override}" for override in [*folder, "init.weights=", "train.steps=10"]]
    flags.append("--deterministic")
    done = run_train("--preset=folder", f"--run_dir={tmp_path / 'run'}", "--dry_run", *flags)
    assert done.returncode == 0, done.stderr
    assert " deterministic=true" in " ".join(done.stdout.split())
    assert "train: mode=unlabeled steps=10 " in done.stdout
    assert "(new)" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_mistake_in_the_data_is_one_line(folder: list[str], tmp_path: Path) -> None:
    Image.fromarray(np.zeros([5, 5], np.uint8)).save(tmp_path / "masks/1.png")
    flags = [f"--set={override}" for override in folder]
    done = run_train("--preset=folder", f"--run_dir={tmp_path / 'run'}", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "1.png" in done.stderr and "5x5" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_labels=DIR/a.json", "data.image_labels: DIR/a.json: not valid JSON"),
        (
            "data.unlabeled=DIR/labeled.txt",
            "data.exclude_labeled: found 'true', but all 2 images of data.unlabeled",
        ),
    ],
)
def test_mistake_about_additional_images_is_one_line(
    folder: list[str], tmp_path: Path, override: str, message: str
) -> None:
    (tmp_path / "a.json").write_text("{")
    every = [
        *folder,
        "train.mode=weakly",
        "data.exclude_labeled=true",
        override.replace("DIR", str(tmp_path)),
    ]
    flags = [f"--set={override}" for override in every]
    done = run_train("--preset=folder", f"--run_dir={tmp_path / 'run'}", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message.replace('DIR', str(tmp_path))}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_plan_counts_data_and_cost(folder: list[str], tmp_path: Path) -> None:
    overrides = ["train.steps=10", "train.evaluate_every=4", "data.crop_size=33,49", "train.keep=3"]
    text = " ".join(plan(small(folder, *overrides), str(tmp_path / "run"), continues=True).split())
    for part in (
        f"run directory: {tmp_path / 'run'} (continues the run in it)",
        "classes: 2 (background, thing)",
        "labeled: 2 images, with masks; 4 a step, 20.0 epochs",
        "unlabeled: 3 images, some with masks; 4 a step, 13.3 epochs",
        "val: 1 images, scored 3 times",
        "crop_size=33,49",
        "note: model.atrous_rates=3,6,9: crops of 33x49 pixels are too small for the rates 3,6,9, most",
        # 4 labeled x 3, 4 weak x 1, 4 for Grad-CAM x 1, 4 strong x 3.
        "steps: 10, each worth 32 forward passes of 33x49 pixels",
        "3 last and 1 best",
    ):
        assert part in text
    assert "scored 3 times, each worth" not in text


@pytest.mark.parametrize(
    ("override", "images", "note"),
    [
        (
            "data.exclude_labeled=false",
            3,
            "note: unlabeled pool: 3 images, 2 labeled ones among them (data.exclude_labeled=true would leave those "
            "out)",
        ),
        (
            "data.exclude_labeled=true",
            1,
            "note: unlabeled pool: 1 images, the 3 of data.unlabeled without 2 labeled ones "
            "(data.exclude_labeled=true)",
        ),
    ],
)
def test_plan_states_the_unlabeled_pool(
    folder: list[str], override: str, images: int, note: str, tmp_path: Path
) -> None:
    text = " ".join(plan(small(folder, override), str(tmp_path / "run"), continues=False).split())
    masks = "some with masks" if images > 1 else "without masks"
    assert f"unlabeled: {images} images, {masks}" in text
    assert note in text


def test_plan_gives_work_memory_and_hours(folder: list[str], tmp_path: Path) -> None:
    config = small(folder, "train.steps=10", "data.crop_size=33,49", "train.mode=supervised")
    text = " ".join(plan(config, str(tmp_path / "run"), continues=False, teraflops=0.5).split())
    model = build_model(2, **dataclasses.asdict(config.model))
    one = count_pass(model, 33, 49)
    operations = 2 * one.multiply_accumulates * 10 * 4 * 3
    assert f"work: {one.multiply_accumulates / 1e9:.4g} billion multiply-accumulates a forward pass" in text
    assert (
        f"{operations / 1e15:.3g} petaFLOP in all, {operations / 0.5e12 / 3600:.3g} hours at 0.5 tera" in text
    )
    assert f"about {4 * one.activation_bytes / 1e9:.3g} GB for the activations of the 4 images" in text
    half = plan(
        dataclasses.replace(config, runtime=RuntimeConfig(precision="bfloat16")), "run", continues=False
    )
    assert f"about {2 * one.activation_bytes / 1e9:.3g} GB for the activations" in " ".join(half.split())
    assert "hours" not in half
    parts = " ".join(
        plan(small(folder, "train.mode=supervised", "train.accumulate=2"), "run", continues=False).split()
    )
    assert "for the activations of the 2 images that a backward pass takes at once" in parts
    assert "parts: 2, one after the other" in parts


def test_plan_scales_the_schedule_of_the_preset_to_another_batch(folder: list[str], tmp_path: Path) -> None:
    reference = preset("folder")
    config = small(folder, "data.batch_labeled=1", "train.steps=10")
    text = " ".join(plan(config, str(tmp_path / "run"), continues=False, reference=reference).split())
    # A quarter of the preset's batch of 4: a quarter of 0.007, four times 4000 steps.
    assert "data.batch_labeled=1 where the preset has 4" in text
    assert "train.learning_rate=0.00175 train.steps=16000 (here 0.007 and 10)" in text
    assert (
        "data.batch_labeled=4 data.batch_unlabeled=4 train.accumulate=4; or by the linear scaling rule"
        in text
    )
    same = plan(small(folder), str(tmp_path / "run"), continues=False, reference=reference)
    assert "scaling" not in same


def test_plan_counts_the_passes_of_an_evaluation(folder: list[str], tmp_path: Path) -> None:
    config = small(folder, "train.steps=10", "data.eval_scales=0.5,1,1.5", "data.eval_flip=true")
    text = " ".join(plan(config, str(tmp_path / "run"), continues=False).split())
    assert "val: 1 images, scored 1 times, each worth 7 forward passes" in text
    config = small(folder, "train.steps=10", "data.eval_window=65,33", "data.eval_overlap=0.5")
    text = " ".join(plan(config, str(tmp_path / "run"), continues=False).split())
    # 65 / 32 * 33 / 16
    assert "scored 1 times, each worth 4.19 forward passes" in text


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        (["train.mode=supervised", "data.batch_labeled=5"], 15),
        (["train.mode=supervised", "data.batch_labeled=5", "runtime.rematerialize=true"], 20),
        (["pseudo.share_weak_pass=true"], 28),
        (["pseudo.weak_inference=true"], 28),
        (["model.fine_tune_batch_norm=false"], 28),
        (["pseudo.use_attention=false", "pseudo.source=decoder"], 28),
        (["train.mode=weakly", "data.unlabeled=LABELED"], 40),
        (["train.mode=weakly", "data.unlabeled=LABELED", "pseudo.weak_inference=true"], 40),
        (["train.mode=weakly", "data.unlabeled=LABELED", "pseudo.classify_labeled=true"], 32),
        (["data.batch_labeled=1", "data.batch_unlabeled=2"], 13),
    ],
)
def test_plan_counts_the_passes_of_each_mode(
    folder: list[str], overrides: list[str], cost: int, tmp_path: Path
) -> None:
    # In weakly mode each additional image needs image-level labels: those of a mask will do.
    overrides = [override.replace("LABELED", f"{tmp_path / 'labeled.txt'}") for override in overrides]
    text = plan(small(folder, *overrides), str(tmp_path / "run"), continues=False)
    assert f"each worth {cost} forward passes" in text
    assert ("unlabeled: " in text) == ("train.mode=supervised" not in overrides)


def test_user_error_out_of_tf_data_keeps_its_line() -> None:
    def read(index: int) -> np.ndarray:
        raise UserError(f"image {index}: damaged; replace the file")

    dataset = tf.data.Dataset.range(1).map(lambda index: tf.numpy_function(read, [index], tf.int64))
    with pytest.raises(tf.errors.OpError) as error:
        next(iter(dataset))
    assert user_message(error.value) == "image 0: damaged; replace the file"


def test_messages_of_other_errors() -> None:
    assert user_message(UserError("a: b")) == "a: b"
    assert user_message(PermissionError(13, "Permission denied", "runs/x")) == "runs/x: Permission denied"
    out_of_memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert "train.accumulate" in (user_message(out_of_memory) or "")
    # Defects of the program keep their traceback.
    assert user_message(ValueError("UserError: no")) is None
    assert user_message(tf.errors.InvalidArgumentError(None, None, "shapes")) is None


@pytest.mark.parametrize(
    ("statement", "code", "stderr"),
    [
        ("raise UserError('two\\nlines')", 2, "error: two lines\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("print('done')", 0, ""),
        (
            "import tensorflow as tf; raise tf.errors.UnknownError(None, None, 'at node: UserError: 7.png: cut off')",
            2,
            "error: 7.png: cut off\n",
        ),
    ],
)
def test_exit_codes(statement: str, code: int, stderr: str) -> None:
    done = run_python(
        "-c",
        "from pseudoseg_tf.cli import _app\nfrom pseudoseg_tf.errors import UserError\n"
        f"def main(argv):\n    {statement}\n_app.run(main)",
    )
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_defect_of_the_program_shows_its_traceback() -> None:
    done = run_python("-c", "from pseudoseg_tf.cli import _app\n_app.run(lambda argv: 1 / 0)")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
