"""``make torture``: prints what was done to each run and whether it ended as one that was left alone.

Exit code 1 if one did not. About a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from tests.folder import draw_folder, small_config
from tests.runs import records, summaries, variables

ROOT = Path(__file__).resolve().parents[2]
# More than the processes that are killed come to.
STEPS = 480
# The step, counted from 1, whose labeled examples are spoiled.
NAN_STEP = 43
OVERRIDES = (
    *("model.atrous_rates=6", "train.log_every=4", "train.checkpoint_every=4", "train.evaluate_every=20"),
    *("train.pictures_every=120", "runtime.deterministic=true", "runtime.threads=1"),
)


class Failure(Exception):
    """A run did not do what it should; the message says what it did."""


@dataclasses.dataclass
class Process:
    """A training process whose lines are collected as they come."""

    process: subprocess.Popen[str]
    lines: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Returns when that holds or the process has ended."""
        while self.process.poll() is None and not reached():
            time.sleep(0.0005)

    def steps_said(self) -> int:
        """How many console lines of steps have come."""
        return sum(line.startswith("step ") and "total" in line for line in self.lines)

    def line_of_stop(self) -> str:
        """What the program said of the signal that stopped it; "" if it said nothing."""
        return next((line for line in self.lines if line.startswith("stopped by ")), "")

    def end(self, number: signal.Signals | None = None) -> int:
        """Sends a signal, if one is given, and waits for the end; returns the exit status."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait()
        self._reader.join()
        return status


class Torture:
    """All checks share the drawn images and the run that is left alone."""

    def __init__(self, work: Path, seed: int):
        self.work = work
        self.random = random.Random(seed)
        draw_folder(work / "data")
        self.rows: list[tuple[str, str, str, float]] = []

    def config(self, *overrides: str) -> Config:
        config = small_config(self.work / "data", steps=STEPS)
        return config_io.apply_overrides(config, [*OVERRIDES, *overrides])

    def start(self, run_dir: Path, *overrides: str, environment: Mapping[str, str] | None = None) -> Process:
        values, defaults = config_io.flatten(self.config(*overrides)), config_io.flatten(Config())
        flags = [
            f"--set={key}={config_io.as_text(value)}"
            for key, value in values.items()
            if value != defaults[key]
        ]
        command = [
            sys.executable,
            "-u",
            "-m",
            "tests.torture.program",
            "--preset=folder",
            "--set=init.weights=",
        ]
        return Process(
            subprocess.Popen(
                [*command, f"--run_dir={run_dir}", *flags],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def finish(self, run_dir: Path, *overrides: str, environment: Mapping[str, str] | None = None) -> Process:
        """Starts a run and lets it come to its end."""
        process = self.start(run_dir, *overrides, environment=environment)
        if process.end() != 0:
            raise Failure("\n".join(process.lines[-3:]))
        return process

    def check(self, name: str, run: Callable[[], str]) -> None:
        began = time.monotonic()
        try:
            row = (name, "ok", run())
        except Failure as failure:
            row = (name, "FAILED", str(failure))
        self.rows.append((*row, time.monotonic() - began))
        print(f"{row[0]}: {row[1]}, {row[2]}", flush=True)

    # The checks.

    def left_alone(self) -> str:
        self.finish(self.work / "alone")
        self.finish(self.work / "again")
        compare(self.work / "again", self.work / "alone")
        return f"{STEPS} steps, twice the same"

    def killed(self, times: int) -> str:
        run_dir = self.work / "killed"
        moments = {"starting": 0, "between steps": 0, "writing a checkpoint": 0}
        for number in range(times):
            moment = list(moments)[number % 3]
            process = self.start(run_dir)
            self._wait(process, run_dir, moment)
            if process.end(signal.SIGKILL) != -signal.SIGKILL:
                raise Failure("ended before it was killed: " + "\n".join(process.lines[-3:]))
            moments[moment] += 1
        last = self.finish(run_dir)
        compare(run_dir, self.work / "alone")
        passed_over = sum("passed over" in line for line in last.lines)
        return ", ".join(f"{count} {moment}" for moment, count in moments.items()) + (
            f"; {passed_over} checkpoints passed over at the end" if passed_over else ""
        )

    def _wait(self, process: Process, run_dir: Path, moment: str) -> None:
        if moment == "starting":
            process.wait_for(lambda: bool(process.lines))
            time.sleep(self.random.uniform(0, 4))
            return
        lines = self.random.randint(1, 3)
        process.wait_for(lambda: process.steps_said() >= lines)
        if moment == "between steps":
            time.sleep(self.random.uniform(0, 0.3))
        else:
            # TensorFlow writes there before it renames.
            process.wait_for(lambda: any((run_dir / "checkpoints").glob("*/*_temp")))
            time.sleep(self.random.uniform(0, 0.003))

    def stopped(self, times: int) -> str:
        run_dir, at = self.work / "stopped", []
        for number in range(times):
            process = self.start(run_dir)
            lines = self.random.randint(1, 2)
            process.wait_for(lambda process=process, lines=lines: process.steps_said() >= lines)
            time.sleep(self.random.uniform(0, 0.3))
            status = process.end((signal.SIGTERM, signal.SIGINT)[number % 2])
            if status != 0 or not process.line_of_stop():
                raise Failure(f"status {status}: {process.lines[-1]}")
            at.append(process.line_of_stop().split()[5])
        self.finish(run_dir)
        compare(run_dir, self.work / "alone")
        return f"status 0 each time, after steps {', '.join(at)}"

    def disk_full(self) -> str:
        folder = self.work / "small"
        with small_disk(folder) as reason:
            if reason:
                return f"skipped: {reason}"
            run_dir, filler = folder / "run", folder / "filler"
            process = self.start(run_dir)
            process.wait_for(lambda: (run_dir / "checkpoints/last/ckpt-8.index").exists())
            process.process.send_signal(signal.SIGSTOP)
            before = checkpoints(run_dir)
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            process.process.send_signal(signal.SIGCONT)
            status = process.end()
            errors = [line for line in process.lines if line.startswith("error: ")]
            if status != 2 or len(errors) != 1 or "Traceback" in "".join(process.lines):
                raise Failure(f"status {status}: " + "\n".join(process.lines[-3:]))
            after = checkpoints(run_dir)
            newest = max(before)
            if after.get(newest) != before[newest]:
                raise Failure(f"{newest} has changed")
            filler.unlink()
            self.finish(run_dir)
            compare(run_dir, self.work / "alone")
            return f"status 2, {errors[0].replace(str(folder), 'DIR')!r}; went on once there was room"

    def several_workers(self) -> str:
        overrides = "runtime.strategy=multi_worker", f"train.steps={STEPS // 8}"
        whole, stopped = self.work / "two_workers", self.work / "two_workers_stopped"
        for process in self._start_workers(whole, *overrides):
            if process.end() != 0:
                raise Failure("\n".join(process.lines[-3:]))
        workers = self._start_workers(stopped, *overrides)
        workers[0].wait_for(lambda: workers[0].steps_said() >= 2)
        statuses = [workers[1].end(signal.SIGTERM), workers[0].end()]
        said = [process.line_of_stop() for process in workers]
        steps = {line.partition(" after ")[2].partition(",")[0] for line in said}
        if statuses != [0, 0] or not all(said) or len(steps) != 1:
            raise Failure(f"status {statuses}: " + "; ".join(process.lines[-1] for process in workers))
        for process in self._start_workers(stopped, *overrides):
            if process.end() != 0:
                raise Failure("\n".join(process.lines[-3:]))
        compare(stopped, whole)
        return f"a signal to the second stopped both after {steps.pop()}"

    def _start_workers(self, run_dir: Path, *overrides: str) -> list[Process]:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind(("localhost", 0))
            addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
        clusters = [
            json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
            for index in range(2)
        ]
        return [self.start(run_dir, *overrides, environment={"TF_CONFIG": text}) for text in clusters]

    def nan_fails(self) -> str:
        run_dir = self.work / "nan_fails"
        process = self.start(run_dir, environment=self._spoiled())
        status = process.end()
        last = next((line for line in process.lines if line.startswith("error: ")), "")
        if status != 2 or f"is not finite at step {NAN_STEP} (" not in last:
            raise Failure(f"status {status}: {last}")
        # As far as there was a checkpoint, all is as it was.
        newest = max(int(path.stem[5:]) for path in (run_dir / "checkpoints/last").glob("*.index"))
        return f"status 2, {last!r}; checkpoint of step {newest} is there"

    def nan_rolls_back(self) -> str:
        straight, killed = self.work / "nan_straight", self.work / "nan_killed"
        policy = "train.on_nonfinite=rollback"
        self.finish(straight, policy, environment=self._spoiled())
        entries = [json.loads(line) for line in (straight / "rollbacks.jsonl").read_text().splitlines()]
        if [entry["step"] for entry in entries] != [NAN_STEP]:
            raise Failure(f"rollbacks: {entries}")
        if not all(np.isfinite(value).all() for value in variables(straight).values()):
            raise Failure("a variable is not finite")
        process = self.start(killed, policy, environment=self._spoiled())
        process.wait_for(lambda: any("rollback 1 of" in line for line in process.lines))
        process.end(signal.SIGKILL)
        self.finish(killed, policy, environment=self._spoiled())
        compare(killed, straight)
        return f"one rollback at step {NAN_STEP}, {entries[0]['examples']}; killed after it: the same end"

    def _spoiled(self) -> dict[str, str]:
        batch = self.config().data.batch_labeled
        numbers = (str((NAN_STEP - 1) * batch + position) for position in range(batch))
        return {"TORTURE_NAN": ",".join(numbers)}


def checkpoints(run_dir: Path) -> dict[int, str]:
    """Sums of the files of each "last" checkpoint, by step."""
    sums: dict[int, str] = {}
    for path in sorted((run_dir / "checkpoints/last").glob("ckpt-*.*")):
        step = int(path.name.split(".")[0][5:])
        sums[step] = sums.get(step, "") + hashlib.sha256(path.read_bytes()).hexdigest()
    return sums


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mounts 16 MB of memory there; gives the reason if that cannot be done."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    try:
        yield done.stderr.strip()
    finally:
        if not done.returncode:
            subprocess.run(["umount", str(folder)], check=True)


def compare(ours: Path, theirs: Path) -> None:
    """Raises Failure unless variables, records and summaries are the same."""
    for which in ("last", "best"):
        a, b = variables(ours, which), variables(theirs, which)
        different = sorted(
            name for name in a.keys() | b.keys() if not np.array_equal(a.get(name), b.get(name))
        )
        if different:
            raise Failure(f"{len(different)} variables of {which} differ, first {different[0]}")
    if records(ours) != records(theirs):
        raise Failure("training.jsonl or history.jsonl differ")
    if summaries(ours) != summaries(theirs):
        raise Failure("summaries differ")


def main() -> int:
    """Runs all checks and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument(
        "--only", default="", help="checks whose names begin so; the run left alone is made anyway"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    # In the background of a shell it is ignored, and so it would be in the processes started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), arguments.seed)
        checks = {
            "left alone": torture.left_alone,
            f"SIGKILL, {arguments.kills} times": lambda: torture.killed(arguments.kills),
            f"SIGTERM and SIGINT, {arguments.stops} times": lambda: torture.stopped(arguments.stops),
            "disk full": torture.disk_full,
            "two workers": torture.several_workers,
            "NaN, fail": torture.nan_fails,
            "NaN, rollback": torture.nan_rolls_back,
        }
        for name, run in checks.items():
            if name.startswith(("left alone", arguments.only)):
                torture.check(name, run)
    print(f"\n{'':30} {'':7} seconds")
    for name, result, what, seconds in torture.rows:
        print(f"{name:30} {result:7} {seconds:7.0f}  {what}")
    return int(any(result == "FAILED" for _, result, _, _ in torture.rows))


if __name__ == "__main__":
    sys.exit(main())
