"""pseudoseg-experiment as a user meets it, and what a report says of runs that are done, half done and absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import matplotlib.image
import pytest
from PIL import Image

from pseudoseg_tf import comparison, config_io, experiment_report
from pseudoseg_tf.budgets import configuration, full, run_of, smoke
from pseudoseg_tf.comparison import Run
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.experiment_catalog import load_experiment
from pseudoseg_tf.experiment_report import (
    Result,
    aligned,
    calibration_file,
    plot,
    read_result,
    report_cells,
    without_scores,
)
from pseudoseg_tf.experiments.definition import Row
from pseudoseg_tf.files import write_json
from pseudoseg_tf.presets import preset

ROOT = Path(__file__).resolve().parents[1]
TEMPERATURE = load_experiment("fig05d")


def experiment(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pseudoseg_tf.cli.experiment", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)


def pretend(run: Run, root: Path, scores: dict[int, float], row: Row) -> None:
    """A run directory with an evaluation of an mIoU at each step, as training would leave it."""
    directory = run.scored(root)
    config_io.save(directory, row.preset, configuration(row, run.overrides))
    lines = [json.dumps({"step": step, "miou": miou}) + "\n" for step, miou in scores.items()]
    (directory / "history.jsonl").write_text("".join(lines))


def test_list_has_every_experiment() -> None:
    done = experiment("list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["name", "rows"]
    assert lines[1].split()[:3] == ["table01", "2", "1"]


def test_show_gives_the_command_that_makes_the_run() -> None:
    done = experiment("show", "table05", "--only=fused-1_4", "--out=o")
    assert done.returncode == 0, done.stderr
    row = next(row for row in load_experiment("table05").rows if row.name == "fused-1_4")
    run = run_of(row, full(row), 0)
    command = done.stdout.splitlines()[-1].split()
    assert command[:3] == ["pseudoseg-train", "--preset=voc12", f"--run_dir=o/full/{run.row}-seed0"]
    overrides = [word.removeprefix("--set=") for word in command[3:]]
    assert config_io.apply_overrides(preset("voc12"), overrides) == configuration(row, full(row))
    assert "paper: 73.79\n" in done.stdout
    # 64 labeled x 3, 64 weak x 2, 64 strong x 3, 30000 times.
    assert "30000 steps, 15.4 million forward passes of 513x513 pixels" in done.stdout
    assert "decoder-1_4" not in done.stdout


def test_show_with_another_backbone() -> None:
    done = experiment("show", "table06", "--only=pseudoseg", "--set=model.backbone=resnet_v1_50_beta")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()
    overrides = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    config = config_io.apply_overrides(preset("voc12"), overrides)
    assert config.model.backbone == "resnet_v1_50_beta" and config.model.multi_grid == (1, 2, 4)
    assert config.init.weights == "zoo/resnet_v1_50/model.ckpt" and config.train.weight_decay == 1e-4
    assert len(config_io.parse_overrides(overrides)) == len(overrides)
    small = experiment(
        "show", "table06", "--only=pseudoseg", "--budget=smoke", "--set=model.backbone=xception_65"
    )
    assert "--set=model.backbone=xception_65" in small.stdout and "width" not in small.stdout


def test_show_of_chains_names_their_programs() -> None:
    chain = experiment("show", "table06", "--only=self-training", "--seeds=1").stdout
    assert (
        "pseudoseg-self-train --preset=voc12" in chain
        and "-seed1 --set=data.seed=1 --set=train.seed=1 " in chain
    )
    # The teacher's 64 labeled images and the student's 64 + 64, each x 3, 30000 times.
    assert "60000 steps, 17.3 million forward passes" in chain
    assert "12 forward passes of 33x33" in experiment("show", "table06", "--budget=smoke").stdout
    calibration = experiment("show", "fig05a", "--only=SGC").stdout.splitlines()
    assert calibration[-1].startswith(
        "  pseudoseg-calibrate --run_dir=runs/experiments/full/unlabeled-1_16-1-"
    )
    assert calibration[-2].startswith("  pseudoseg-train ")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no command; commands: ", "list, overview, show, run, report"]),
        (["lst"], ["'lst'", "nearest: list"]),
        (["list", "table05"], ["list: found table05, takes no name"]),
        (["list"], ["--out: list takes no flags"]),
        (["overview", "--budget=cpu"], ["overview takes no flags"]),
        (["run", "table05", "--steps=x"], ["flag --steps=x: must be a whole number, found 'x'", "--help"]),
        (["run", "table05", "--steps=3"], ["--steps: --budget=smoke does not read it", "--budget=cpu"]),
        (["show", "table05", "--data=x"], ["--data: --budget=full does not read it"]),
        (["run", "table05", "--weights=x"], ["--weights: --budget=smoke", "--budget=cpu or full"]),
        (["report", "table05", "--budget=cpu", "--data=x", "--accumulate=2"], ["--accumulate: --budget=cpu"]),
        (["show"], ["show: found nothing, takes one experiment, or all"]),
        (
            ["show", "table05", "--set", "train.seed=7"],
            ["--set train.seed: rows of table05 are repeated by it", "--seeds"],
        ),
        (["run", "table01", "table02"], ["run: found table01 table02"]),
        (["show", "table5"], ["experiment 'table5'", "nearest: table05"]),
        (["report", "table05", "--only=fusd-1_4"], ["--only: found 'fusd-1_4'", "nearest: fused-1_4"]),
        (["run", "all", "--only=fused-1_4"], ["--only", "instead of all"]),
        (["run", "table05", "--budget=cpu"], ["--data: missing"]),
        (["run", "table05", "--budget=tiny"], ["budget", "tiny"]),
        (["show", "table05", "--weights="], ["--weights: empty; full takes the folder"]),
        (["run", "table05", "--seeds=a"], ["--seeds: found 'a'"]),
        (["run", "table05", "--seeds="], ["--seeds: found ''"]),
        (["run", "table05", "--seeds=0,-1"], ["--seeds: found '0,-1'"]),
        (["run", "table05", "--budget=cpu", "--data=nowhere"], ["nowhere"]),
        (["show", "fig05d", "--set=pseudo.temperature=1"], ["--set pseudo.temperature", "rows of fig05d"]),
        (["run", "all", "--set=model.backbone=xception_65"], ["--set model.backbone", "rows of table01"]),
        (
            ["run", "table05", "--budget=cpu", "--data=x", "--set=model.backbone=xception_65"],
            ["--weights: missing; name first weights of xception_65"],
        ),
        (["run", "table05", "--set=pseudo.temp=1"], ["nearest: pseudo.temperature"]),
        (["run", "table05", "--out=README.md/o"], ["README.md is a file"]),
        (["report", "table05", "--out=README.md/o"], ["README.md is a file"]),
    ],
)
def test_a_mistake_is_one_line(words: list[str], parts: list[str], tmp_path: Path) -> None:
    done = experiment(f"--out={tmp_path / 'out'}", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_no_row_can_use(tmp_path: Path) -> None:
    """Each row says why, once."""
    (tmp_path / "my/masks").mkdir(parents=True)
    lists = {"classes": "background\nthing\n", "train": "0\n", "val": "1\n", "aug_extra": "2\n"}
    for name, text in lists.items():
        (tmp_path / f"my/{name}.txt").write_text(text)
    Image.new("L", (4, 4)).save(tmp_path / "my/masks/0.png")
    flags = ["--budget=cpu", f"--data={tmp_path / 'my'}", f"--out={tmp_path / 'out'}"]
    done = experiment("run", "fig05c", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: fig05c: no row can be run, see above; ")
    lines = done.stdout.splitlines()
    assert len(lines) == len(set(lines)) > 1
    assert all("not run, --data: " in line for line in lines)


def test_report_of_seeds_of_an_unfinished_run_and_of_none(tmp_path: Path) -> None:
    rows = TEMPERATURE.rows[:3]
    runs = [run_of(row, full(row), 0) for row in rows]
    pretend(runs[0], tmp_path, {15000: 0.5, 30000: 0.4}, rows[0])
    pretend(Run(runs[0].row, 7, "voc12", runs[0].overrides), tmp_path, {30000: 0.6}, rows[0])
    pretend(runs[1], tmp_path, {1000: 0.3}, rows[1])
    (tmp_path / f"{runs[2].row}-seed0.log").write_text("stopped at once")
    results = [read_result(row, run, tmp_path) for row, run in zip(rows, runs, strict=True)]
    assert results == [
        Result(rows[0], (40.0, 60.0), (50.0, 60.0), ""),
        Result(rows[1], (), (), "seed 0 at step 1000 of 30000"),
        Result(rows[2], (), (), "not run"),
    ]
    assert report_cells(results)[1:] == [
        # The standard deviations of 40 and 60, of 50 and 60.
        ["T-0.1", "unknown", "50.00 ± 14.14", "55.00 ± 7.07", "2", ""],
        ["T-0.3", "unknown", "-", "-", "-", "seed 0 at step 1000 of 30000"],
        ["T-0.5", "67.06", "-", "-", "-", "not run"],
    ]
    assert without_scores(results[0]) == Result(rows[0], note="runs")
    assert without_scores(results[2]) == results[2]


def test_report_of_the_student(tmp_path: Path) -> None:
    row = load_experiment("table06").rows[1]
    run = run_of(row, full(row), 0)
    pretend(run, tmp_path, {30000: 0.25}, row)
    assert read_result(row, run, tmp_path).last == (25.0,)


def test_report_of_a_calibration(tmp_path: Path) -> None:
    rows = {row.name: row for row in load_experiment("fig05a").rows}
    run = run_of(rows["SGC"], full(rows["SGC"]), 0)
    pretend(run, tmp_path, {30000: 0.25}, rows["SGC"])
    assert read_result(rows["SGC"], run, tmp_path).note == "not run"
    maps = {"SGC": {"ece": 0.125}, "fusion, sharpened": {"ece": 0.5}, "fusion without Norm": {"ece": 0.25}}
    write_json(calibration_file(run.directory(tmp_path)), {"maps": maps})
    for name, expected in (("SGC", 12.5), ("fusion-sharpened", 50.0), ("fusion-without-Norm", 25.0)):
        assert read_result(rows[name], run, tmp_path) == Result(rows[name], (expected,), (), "")


@pytest.mark.parametrize(
    ("program", "configured"), [("train", True), ("self_train", True), ("calibrate", False)]
)
def test_each_run_is_a_process_of_its_program(
    program: str, configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Done:
        returncode = 0
        __class_getitem__ = classmethod(lambda cls, _: cls)

        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(comparison.subprocess, "Popen", Done)
    comparison.run_all([Run("row", 3, "shapes", ("train.steps=2",), program)], tmp_path, 2, jobs=1)
    (command,) = started
    assert command[1:4] == ["-m", f"pseudoseg_tf.cli.{program}", f"--run_dir={tmp_path / 'row-seed3'}"]
    assert ("--preset=shapes" in command) == configured
    assert ("--set=data.seed=3" in command and "--set=train.steps=2" in command) == configured


def test_short_runs_share_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    class Done:
        returncode = 0
        __class_getitem__ = classmethod(lambda cls, _: cls)

        def __init__(self, command: list[str], stdin: IO[bytes], **_: object) -> None:
            assert command[1:] == ["-m", "pseudoseg_tf.cli._several"]
            shares.append(json.load(stdin))

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(comparison.subprocess, "Popen", Done)
    runs = [Run(row, 1, "shapes", ("train.steps=2",)) for row in "abc"]
    comparison.run_all(runs, tmp_path, 6, jobs=2, short=True)
    assert [[run["run_dir"] for run in share] for share in shares] == [
        [str(tmp_path / "a-seed1"), str(tmp_path / "c-seed1")],
        [str(tmp_path / "b-seed1")],
    ]
    first = shares[0][0]
    assert first["log"] == str(tmp_path / "a-seed1.log")
    assert (first["program"], first["preset"]) == ("train", "shapes")
    assert {"data.seed=1", "train.seed=1", "train.steps=2"} < set(first["overrides"])


def test_a_mistake_in_one_of_several_runs_ends_them(tmp_path: Path) -> None:
    """With real processes; the log names the run that failed, and the next one is not begun."""
    runs = [
        Run("bad", 0, "shapes", ("train.steps=none",)),
        Run("next", 0, "shapes", ("train.steps=1",)),
    ]
    with pytest.raises(UserError, match=r"^bad, seed 0: train\.steps.*'none'.*\(log: .*bad-seed0\.log\)$"):
        comparison.run_all(runs, tmp_path, 2, jobs=1, short=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad-seed0.log"]


def test_a_signal_stops_the_runs_too(tmp_path: Path) -> None:
    """With real processes, of which none is left."""
    program = """
import subprocess, sys
from pseudoseg_tf import comparison
from pseudoseg_tf.interruption import Interrupted
comparison._start = lambda run, root, threads: subprocess.Popen(["sh", "-c", "echo $$; exec sleep 600"])
try:
    comparison.run_all([comparison.Run("row", 0, "shapes", ())], sys.argv[1], steps=2)
except Interrupted as interrupted:
    print(interrupted)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.terminate()
        assert process.stdout.read() == "stopped by SIGTERM\n"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_run_that_was_stopped_stops_the_comparison(tmp_path: Path) -> None:
    run = Run("row", 3, "shapes", ())
    log = tmp_path / "row-seed3.log"
    log.write_text("step 1/2\nstopped by SIGTERM after step 1 of 2\n")
    with pytest.raises(
        UserError, match=r"^row, seed 3: stopped by SIGTERM after step 1 of 2 \(log: .*3\.log\)$"
    ):
        comparison._check(0, run, tmp_path)
    log.write_text("stopped by SIGTERM after step 1 of 2\nstep 2: validation\n")
    comparison._check(0, run, tmp_path)


def test_a_run_is_done_when_its_last_step_is_scored(tmp_path: Path) -> None:
    assert not comparison.is_done(tmp_path, 2)
    (tmp_path / "history.jsonl").write_text(json.dumps({"step": 1, "miou": 0.1}) + "\n")
    assert comparison.is_done(tmp_path, 1)
    assert not comparison.is_done(tmp_path, 2)


def test_text_is_aligned() -> None:
    assert aligned([["a", "bbb", "c"], ["aa", "b", ""]]) == "a   bbb  c\naa  b"


def test_picture_of_results_and_gaps(tmp_path: Path) -> None:
    rows = TEMPERATURE.rows
    results = [Result(rows[0], (40.0, 60.0), (50.0, 60.0), ""), *(Result(row) for row in rows[1:])]
    plot("fig05d: a heading of two lines, " * 4, TEMPERATURE.metric, results, tmp_path / "t.png", True)
    picture = matplotlib.image.imread(tmp_path / "t.png")
    assert picture.shape[1] > picture.shape[0] > 200
    nothing = tmp_path / "nothing.png"
    plot("fig05d", TEMPERATURE.metric, [Result(row) for row in rows[:1]], nothing, False)
    assert nothing.exists()


def test_small_differences_look_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(experiment_report, "save_figure", lambda path, figure: figures.append(figure))
    for last in (21.57, 21.62), (20.0, 40.0):
        results = [Result(row, (), (score,), "") for row, score in zip(TEMPERATURE.rows, last, strict=False)]
        plot("fig05d", TEMPERATURE.metric, results, tmp_path / "t.png", False)
    (near, _), (far, _) = ([panel.get_xlim() for panel in figure.axes] for figure in figures)
    assert near == pytest.approx((21.595 - 2.5, 21.595 + 2.5))
    assert far[0] < 20 and 40 < far[1] < 42


def test_report_of_the_program_writes_markdown(tmp_path: Path) -> None:
    row = TEMPERATURE.rows[0]
    pretend(run_of(row, full(row), 0), tmp_path / "full", {30000: 0.4}, row)
    done = experiment("report", "fig05d", "--budget=full", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "T-0.1  unknown  40.00  40.00  1\n" in done.stdout
    text = (tmp_path / "full/fig05d.md").read_text()
    assert "| T-0.1 | unknown | 40.00 | 40.00 | 1 |  |\n" in text
    assert "| T-0.5 | 67.06 | - | - | - | not run |\n" in text
    assert (tmp_path / "full/fig05d.png").exists()


@pytest.mark.slow
def test_smoke_trains_and_does_not_train_again(tmp_path: Path) -> None:
    # Of Table 5, whose two labeled sets are one under smoke.
    words = (
        "run",
        "table05",
        "--only=fused-1_4,fused-1_16/1",
        "--budget=smoke",
        f"--out={tmp_path}",
        "--jobs=1",
    )
    done = experiment(*words)
    assert done.returncode == 0, done.stderr
    assert "1 different runs, 1 to make" in done.stdout
    assert "fused-1_4     73.79  -     -     -      runs\n" in done.stdout
    row = next(row for row in load_experiment("table05").rows if row.name == "fused-1_4")
    run = run_of(row, smoke(row, load_experiment("table05")), 0)
    history = run.directory(tmp_path / "smoke") / "history.jsonl"
    assert json.loads(history.read_text().splitlines()[-1])["step"] == 2
    assert "1 different runs, 0 to make" in experiment(*words).stdout
