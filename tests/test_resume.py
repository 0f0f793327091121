"""A run that was stopped, killed or thrown back ends as one that ran through."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io, trainer
from pseudoseg_tf.config import Config
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.pipeline import example_ids
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import Evaluator
from pseudoseg_tf.interruption import Interrupted
from pseudoseg_tf.run_lock import claimed
from pseudoseg_tf.train import train
from tests.folder import draw_folder, small_config
from tests.runs import records, summaries, variables

# The package's own name "train" is the function.
training = importlib.import_module("pseudoseg_tf.train")
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder") / "data"
    draw_folder(root)
    return root


def config_of(folder: Path, *overrides: str, mode: str = "supervised", steps: int = 6) -> Config:
    config = small_config(folder, mode, steps)
    # Fewer branches are sooner traced.
    return config_io.apply_overrides(config, ["model.atrous_rates=6", *overrides])


def quiet(line: str) -> None:
    pass


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Variables and everything that was written, but for times and memory."""
    ours_last, theirs_last = variables(ours), variables(theirs)
    assert ours_last.keys() == theirs_last.keys()
    for name in ours_last:
        np.testing.assert_array_equal(ours_last[name], theirs_last[name], err_msg=name)
    assert records(ours) == records(theirs)
    assert summaries(ours) == summaries(theirs)


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives before a step, counted from 0."""

    class Stopping(training.Trainer):
        def __init__(self, *args: Any, before_step: Callable[[], None], **kwargs: Any) -> None:
            def stopping() -> None:
                if int(self._optimizer.iterations.numpy()) == step:
                    signal.raise_signal(signal.SIGTERM)
                before_step()

            super().__init__(*args, before_step=stopping, **kwargs)

    monkeypatch.setattr(training, "Trainer", Stopping)


def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives after the first validation image."""

    def eval_reduce(self: Evaluator, state: int, step_outputs: tf.Tensor) -> int:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr(Evaluator, "eval_reduce", eval_reduce)


def spoil(numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts NaN into the pixels of the labeled examples of these numbers.

    ReLU makes 0 of it, so that the loss is a number and the gradient is none.
    """
    labeled_batch = trainer.labeled_batch

    def spoiled(model: Any, examples: Mapping[str, tf.Tensor]) -> Any:
        batch = labeled_batch(model, examples)
        hit = tf.reduce_any(examples["counter"][:, tf.newaxis] == tf.constant(numbers, tf.int64), axis=1)
        image = tf.where(hit[:, tf.newaxis, tf.newaxis, tf.newaxis], float("nan"), batch["image"])
        return {**batch, "image": image}

    monkeypatch.setattr(trainer, "labeled_batch", spoiled)


def test_a_run_stopped_and_killed_on_its_way_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    expected = train(config, str(unbroken), quiet)
    last = f"{broken}/checkpoints/last"

    # Within an interval of two steps: what was summed up of it is kept.
    with pytest.raises(Interrupted) as error, monkeypatch.context() as patch:
        stop_before(3, patch)
        train(config, str(broken), quiet)
    assert str(error.value) == (
        f"stopped by SIGTERM after step 3 of 6, saved in {last}/ckpt-3; the same command continues"
    )
    # In the midst of the evaluation of step 4, which is then made again.
    lines: list[str] = []
    with (
        pytest.raises(Interrupted, match=r"after step 4 of 6, saved in .*/ckpt-4;"),
        monkeypatch.context() as patch,
    ):
        stop_in_evaluation(patch)
        train(config, str(broken), lines.append)
    assert lines[0] == f"continues at step 3 from {last}/ckpt-3"
    assert not (broken / "history.jsonl").exists()

    # As a kill between the evaluation of step 6 and its checkpoint.
    def kill(line: str) -> None:
        if line.startswith("step 6: validation"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, str(broken), kill)
    assert [entry["step"] for entry in records(broken)["history"]] == [4, 6]
    # The newest checkpoint is cut off: the one before is used.
    data = Path(f"{last}/ckpt-4.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    lines = []
    assert train(config, str(broken), lines.append) == expected
    assert re.fullmatch(rf"{last}/ckpt-4: a damaged checkpoint \(.*\); passed over", lines[0])
    assert lines[1] == f"continues at step 3 from {last}/ckpt-3"
    assert_same_run(broken, unbroken)
    best = expected["best"]["step"]
    assert [path.name for path in (broken / "checkpoints/best").glob("*.index")] == [f"ckpt-{best}.index"]


@pytest.mark.slow
def test_a_run_of_both_streams_killed_on_its_way_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path
) -> None:
    config = config_of(folder, "train.evaluate_every=6", mode="unlabeled", steps=4)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    expected = train(config, str(unbroken), quiet)
    # What a kill leaves that comes before the checkpoint of step 4.
    shutil.copytree(unbroken, broken)
    for path in broken.glob("checkpoints/*/ckpt-4.*"):
        path.unlink()
    lines: list[str] = []
    assert train(config, str(broken), lines.append) == expected
    assert any(line.startswith("continues at step 2 ") for line in lines)
    assert_same_run(broken, unbroken)
    assert (broken / "pictures/step-00000004.png").read_bytes() == (
        unbroken / "pictures/step-00000004.png"
    ).read_bytes()


def test_a_step_that_is_not_finite(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(folder, steps=4)
    rollback = config_of(folder, "train.on_nonfinite=rollback", steps=4)
    spoil([5], monkeypatch)  # in step 3, of the numbers 4 and 5
    run_dir = tmp_path / "run"
    with pytest.raises(UserError) as error:
        train(config, str(run_dir), quiet)
    sources = open_sources(config.data, "supervised")
    ids = example_ids(sources.labeled, config.data, "labeled", 2)
    found = re.fullmatch(
        r"the gradient is not finite at step 3 \(total 1\.\d+; supervised 1\.\d+; decay 0\.\d+; learning rate (.*); "
        rf"labeled images {', '.join(ids)}\); try a smaller train\.learning_rate, "
        r"or look for damaged images among these, or go on without them: train\.on_nonfinite=rollback",
        str(error.value),
    )
    assert found and found[1] == f"{0.02 * 0.5**0.9:g}"
    before = variables(run_dir)
    assert int(before["step/.ATTRIBUTES/VARIABLE_VALUE"]) == 2
    assert all(np.isfinite(value).all() for value in before.values())

    # The same run under the other policy, and one that had it from the start.
    lines: list[str] = []
    train(rollback, str(run_dir), lines.append)
    others = example_ids(sources.labeled, config.data, "labeled", 2, [2])
    assert sum(line.startswith(f"continues at step 2 from {run_dir}") for line in lines) == 2
    assert any(
        line.startswith("the gradient is not finite at step 3 (total 1.")
        and line.endswith("); back to step 2, with other images for that step (rollback 1 of 3)")
        for line in lines
    )
    (entry,) = [json.loads(line) for line in (run_dir / "rollbacks.jsonl").read_text().splitlines()]
    assert set(entry["losses"]) == {"total", "supervised", "decay"}
    assert (entry["step"], entry["examples"]) == (3, {"labeled": ids})
    assert [line["step"] for line in records(run_dir)["training"]] == [2, 4]
    assert all(np.isfinite(value).all() for value in variables(run_dir).values())
    assert others != ids or len(set(ids)) < 3

    # Killed after the rollback, it skips the same.
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    for path in [*again.glob("checkpoints/last/*-4.*"), *again.glob("checkpoints/best/*")]:
        path.unlink()
    train(rollback, str(again), quiet)
    assert_same_run(again, run_dir)


def test_rollbacks_come_to_an_end(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(folder, "train.on_nonfinite=rollback", "train.max_rollbacks=2", steps=2)
    number = pipeline._REDRAWN
    spoil([1, 1 + number, 1 + 2 * number], monkeypatch)
    lines: list[str] = []
    with pytest.raises(UserError, match=r"at step 1 \(.*\), after 2 rollbacks \(train\.max_rollbacks\); try"):
        train(config, str(tmp_path), lines.append)
    # There was no checkpoint yet but the one of the first weights.
    assert sum("; back to step 0, with other images" in line for line in lines) == 2
    assert not (tmp_path / "history.jsonl").exists()


def test_two_runs_in_one_directory(folder: Path, tmp_path: Path) -> None:
    with claimed(str(tmp_path / "run")):
        with pytest.raises(UserError, match=r"/run: process \d+ on .* is training in it"):
            train(config_of(folder), str(tmp_path / "run"), quiet)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_no_good_checkpoint_is_left(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, steps=2)
    config_io.save(tmp_path, "folder", config)
    (tmp_path / "checkpoints/last").mkdir(parents=True)
    (tmp_path / "checkpoints/last/ckpt-2.index").write_bytes(b"")
    lines: list[str] = []
    with pytest.raises(
        UserError, match=r"checkpoints/last: none of the checkpoints can be used; restore one"
    ):
        train(config, str(tmp_path), lines.append)
    assert [line for line in lines if "passed over" in line]


@pytest.mark.slow
def test_deterministic_runs_are_equal(folder: Path, tmp_path: Path) -> None:
    values = config_io.flatten(config_of(folder, mode="unlabeled", steps=3))
    flags = [
        f"--set={key}={config_io.as_text(value)}"
        for key, value in values.items()
        if value != config_io.flatten(Config())[key]
    ]
    command = [
        sys.executable,
        "-m",
        "tests.torture.program",
        "--preset=folder",
        "--set=init.weights=",
        *flags,
    ]
    for name in ("first", "second"):
        done = subprocess.run(
            [*command, f"--run_dir={tmp_path / name}", "--deterministic"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert config_io.load(tmp_path / "first").runtime.deterministic
    assert_same_run(tmp_path / "first", tmp_path / "second")
