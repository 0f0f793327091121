"""Two real processes of one run on this machine: they train, one dies, both start again and end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.evaluate import evaluate
from tests.folder import draw_folder, small_config

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 240


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def _workers(flags: list[str], logs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The chief and a second worker of ``pseudoseg-train``, which end with the block."""
    logs.mkdir()
    addresses = [f"127.0.0.1:{port}" for port in _free_ports()]
    processes = []
    try:
        for index in range(2):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            with open(logs / f"{index}.txt", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-u", "-m", "pseudoseg_tf.cli.train", *flags],
                        cwd=ROOT,
                        env={**os.environ, "TF_CONFIG": json.dumps(task)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_two_workers_survive_the_death_of_one(tmp_path: Path) -> None:
    folder, run_dir = tmp_path / "data", tmp_path / "run"
    draw_folder(folder)
    config = config_io.apply_overrides(
        small_config(folder, "supervised", steps=6),
        ["runtime.strategy=multi_worker", "runtime.threads=1", "train.checkpoint_every=2"],
    )
    overrides = [
        f"--set={key}={config_io.as_text(value)}"
        for key, value in config_io.flatten(config).items()
        if value != config_io.flatten(Config())[key]
    ]
    flags = ["--preset=folder", f"--run_dir={run_dir}", "--set=init.weights=", *overrides]

    with _workers(flags, tmp_path / "first") as (chief, second):
        _wait_for(run_dir / "checkpoints/last/ckpt-2.index", chief)
        second.kill()
        second.wait()
        # The chief cannot go on alone; it may end by itself or wait for the other.
    newest = tf.train.latest_checkpoint(str(run_dir / "checkpoints/last"))
    assert newest is not None

    with _workers(flags, tmp_path / "again") as processes:
        for process in processes:
            assert process.wait(timeout=_SECONDS) == 0, (tmp_path / "again/0.txt").read_text()
    assert "continues at step" in (tmp_path / "again/0.txt").read_text()
    # One of the two wrote the run directory; what the other one had to write lies in its own.
    steps = [json.loads(line)["step"] for line in (run_dir / "training.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    assert {path.name for path in (run_dir / "workers").iterdir()} == {"worker-1"}
    # Evaluated by both, and by one process alone.
    together = json.loads((run_dir / "history.jsonl").read_text().splitlines()[-1])
    alone = _evaluated_alone(run_dir)
    assert together["step"] == alone["step"] == 6
    assert together["images"] == alone["images"] == 2
    assert alone["miou"] == pytest.approx(together["miou"], abs=1e-9)
    assert alone["iou"] == pytest.approx(together["iou"], abs=1e-9)


def _evaluated_alone(run_dir: Path) -> dict[str, object]:
    """Scores the last checkpoint on one device."""
    content = json.loads((run_dir / "config.json").read_text())
    content["config"]["runtime"]["strategy"] = "one_device"
    content["config"]["runtime"]["threads"] = 0
    (run_dir / "config.json").write_text(json.dumps(content))
    return evaluate(str(run_dir), "last")


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the process has written a file; it must not end before."""
    while not path.exists():
        try:
            code = process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        assert path.exists(), f"ended with {code}"
