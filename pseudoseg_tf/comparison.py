"""Several runs under the same budget, side by side in processes, repeated over seeds, summarized."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from pseudoseg_tf.errors import UserError
from pseudoseg_tf.interruption import STOPPED, StopSignals
from pseudoseg_tf.progress import Progress

# Seconds between two looks at the running processes.
_POLL = 0.5


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: a row of a comparison and a seed, which picks weights, data order and views.

    Attributes:
        row: what is compared, such as "supervised"; part of the directory's name.
        seed: sets data.seed and train.seed.
        preset: where the configuration starts.
        overrides: "key=value" each.
        program: trains the row: ``pseudoseg_tf.cli.train``, or the chain of ``self_train``; or, after ``train`` of the
            same row, ``calibrate``.
    """

    row: str
    seed: int
    preset: str
    overrides: tuple[str, ...]
    program: Literal["train", "self_train", "calibrate"] = "train"

    def directory(self, root: str | os.PathLike[str]) -> Path:
        """The run directory under ``root``."""
        return Path(root) / f"{self.row}-seed{self.seed}"

    def scored(self, root: str | os.PathLike[str]) -> Path:
        """The directory whose ``history.jsonl`` has the scores: of a chain the student's."""
        return self.directory(root) / ("student" if self.program == "self_train" else "")


def run_all(
    runs: Sequence[Run],
    root: str | os.PathLike[str],
    steps: int,
    jobs: int | None = None,
    short: bool = False,
) -> None:
    """Trains all runs, several at a time; a run that is done is not repeated, a broken-off one continues.

    The cores are shared out among the processes: on a CPU, two processes of one thread do far more than one
    process of two.

    Args:
        runs: in the order in which they start.
        root: receives a directory and a log file per run.
        steps: of all runs together, for the progress line.
        jobs: processes at a time; None: as many as there are cores.
        short: a process makes its share of the runs one after the other, instead of one run alone: for runs that take
            no longer than the start of a process.

    Raises:
        UserError: a run failed; names its log file and its last line.
        Interrupted: a signal came; the runs were stopped in good order.
    """
    cores = len(os.sched_getaffinity(0))
    jobs = min(jobs or cores, len(runs))
    threads = max(1, cores // jobs)
    waiting = [runs[job::jobs] for job in range(jobs)] if short else [[run] for run in runs]
    running = dict[subprocess.Popen[bytes], Sequence[Run]]()
    os.makedirs(root, exist_ok=True)
    with StopSignals() as signals, Progress(steps, "steps of all runs") as progress:
        seen = 0
        try:
            while waiting or running:
                # Here, where every process that was started is known.
                signals.check()
                while waiting and len(running) < jobs:
                    share = waiting.pop(0)
                    process = _start_share(share, root, threads) if short else _start(share[0], root, threads)
                    running[process] = share
                for process, share in list(running.items()):
                    if process.poll() is not None:
                        del running[process]
                        # Of a share, the one that it was at.
                        _check(process.returncode, max(share, key=lambda run: _logged(run, root)), root)
                done = sum(_steps_done(run, root) for run in runs)
                if done > seen:
                    progress.update(done - seen)
                    seen = done
                time.sleep(_POLL)
        finally:
            for process in running:
                process.terminate()
                process.wait()


def _start(run: Run, root: str | os.PathLike[str], threads: int) -> subprocess.Popen[bytes]:
    command = ["-m", f"pseudoseg_tf.cli.{run.program}", f"--run_dir={run.directory(root)}"]
    if run.program != "calibrate":
        command += [f"--preset={run.preset}", *(f"--set={override}" for override in _overrides(run, threads))]
    return _python(command, run, root, threads)


def _start_share(runs: Sequence[Run], root: str | os.PathLike[str], threads: int) -> subprocess.Popen[bytes]:
    described = [
        {
            "program": run.program,
            "run_dir": str(run.directory(root)),
            "preset": run.preset,
            "overrides": _overrides(run, threads),
            "log": _log_file(run, root),
        }
        for run in runs
    ]
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(described).encode())
        file.seek(0)
        return _python(["-m", "pseudoseg_tf.cli._several"], runs[0], root, threads, stdin=file)


def _overrides(run: Run, threads: int) -> list[str]:
    return [
        f"data.seed={run.seed}",
        f"train.seed={run.seed}",
        f"runtime.threads={threads}",
        *run.overrides,
    ]


def _python(
    arguments: Sequence[str],
    run: Run,
    root: str | os.PathLike[str],
    threads: int,
    stdin: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """A process that writes to the log of a run."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(_log_file(run, root), "ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments], stdin=stdin, stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def _log_file(run: Run, root: str | os.PathLike[str]) -> str:
    return f"{run.directory(root)}.log"


def _logged(run: Run, root: str | os.PathLike[str]) -> int:
    """When the log of a run was last written, in nanoseconds; 0 if there is none."""
    path = Path(_log_file(run, root))
    return path.stat().st_mtime_ns if path.exists() else 0


def _check(returncode: int, run: Run, root: str | os.PathLike[str]) -> None:
    path = _log_file(run, root)
    last = (Path(path).read_text(encoding="utf-8", errors="replace").splitlines() or ["failed"])[-1]
    # A run that a signal has stopped ends with status 0.
    if returncode or last.startswith(STOPPED):
        raise UserError(f"{run.row}, seed {run.seed}: {last.removeprefix('error: ')} (log: {path})")


def is_done(run_dir: Path, steps: int) -> bool:
    """Whether a run has been evaluated after the last of its ``steps``."""
    history = read_lines(run_dir / "history.jsonl")
    return bool(history) and history[-1]["step"] >= steps


def _steps_done(run: Run, root: str | os.PathLike[str]) -> int:
    parts = {"train": [""], "self_train": ["teacher", "student"], "calibrate": []}[run.program]
    logs = [read_lines(run.directory(root) / part / "training.jsonl") for part in parts]
    return sum(entries[-1]["step"] for entries in logs if entries)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a run's ``history.jsonl`` or ``training.jsonl``; none if it is absent.

    Raises:
        UserError: it is damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or train again") from error


def last_and_best(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last evaluation of a run and the one with the best mIoU."""
    history = read_lines(run_dir / "history.jsonl")
    return history[-1], max(history, key=lambda entry: entry["miou"])


def seconds_per_step(directory: Path) -> float:
    """Median over the console lines of a run; NaN if none has a time, as the first after a start (compilation)."""
    key = "seconds_per_step"
    times = [line[key] for line in read_lines(directory / "training.jsonl") if key in line]
    return statistics.median(times) if times else math.nan


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; 0 spread for one value."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(
    runs: Sequence[Run],
    root: str | os.PathLike[str],
    columns: dict[str, Callable[[Path], float]],
) -> str:
    """A Markdown table: one line a row of the comparison, mean and spread over its seeds in each column.

    Args:
        columns: title -> value of a run directory.
    """
    lines = [["row", "seeds", *columns]]
    for row in dict.fromkeys(run.row for run in runs):
        directories = [run.directory(root) for run in runs if run.row == row]
        cells = []
        for value in columns.values():
            mean, spread = mean_and_spread(value(directory) for directory in directories)
            cells.append(f"{mean:.2f} ± {spread:.2f}")
        lines.append([row, str(len(directories)), *cells])
    return markdown_table(lines)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first line is the header."""
    ruled = [lines[0], ["--"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
