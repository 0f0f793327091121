r"""Does it help? Supervised, PseudoSeg unlabeled and weakly, and decoder-only labels under the same budget.

Trains a small DeepLabv3+ (MobileNetV1) on a folder data set of real images: a class-balanced eighth of the
training list is labeled, the rest of it and the extra list are additional images. Every row has the same
steps, labeled images, batches, views and seeds. Prints a table of mean and spread over the seeds and draws
the curves. Started again, it continues where it was; with --report it only reports.

Example:
  python -m benchmarks.learning_curve --data=../shared/data/voc12_subset \
    --weights=../shared/weights/mobilenet_v1_1.0_imagenet.npz --out=runs/learning_curve
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from absl import flags

from benchmarks import _curve_flags
from benchmarks.curve_rows import FREQUENT
from pseudoseg_tf.cli import _app
from pseudoseg_tf.comparison import (
    Run,
    last_and_best,
    mean_and_spread,
    read_lines,
    run_all,
    seconds_per_step,
    table,
)

_curve_flags.define(steps=500, evaluations=2, seeds=["0", "1", "2"])
_JOBS = flags.DEFINE_integer("jobs", None, "Processes at a time; the number of cores if not given.")
_REPORT = flags.DEFINE_bool("report", False, "Report what is there, train nothing.")


def main(argv: Sequence[str]) -> None:
    """Draws the labeled list, trains what is missing, reports."""
    del argv
    runs, out = _curve_flags.runs()
    if not _REPORT.value:
        run_all(runs, out, len(runs) * flags.FLAGS.steps, _JOBS.value)
    done = [run for run in runs if read_lines(run.directory(out) / "history.jsonl")]
    text = _report(done, out)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    _plot(done, out / "curves.png")


def _miou(entry: dict, names: Sequence[str] = ()) -> float:
    """Percent; over ``names``, or over all classes that occur among the labels or predictions."""
    iou = {name: value for name, value in entry["iou"].items() if value is not None}
    return 100 * float(np.mean([iou[name] for name in names or iou]))


def _report(runs: Sequence[Run], out: Path) -> str:
    columns = {
        "last mIoU": lambda d: _miou(last_and_best(d)[0]),
        "best mIoU": lambda d: _miou(last_and_best(d)[1]),
        "last, frequent": lambda d: _miou(last_and_best(d)[0], FREQUENT),
        "best, frequent": lambda d: max(_miou(e, FREQUENT) for e in read_lines(d / "history.jsonl")),
        "last ECE": lambda d: 100 * last_and_best(d)[0]["ece"],
        "s/step": seconds_per_step,
        "minutes of steps": lambda d: seconds_per_step(d) * last_and_best(d)[0]["step"] / 60,
        "peak MB": lambda d: read_lines(d / "training.jsonl")[-1]["peak_memory_mb"],
    }
    lines = [
        table(runs, out, columns),
        "",
        "Pseudo labels on the additional images (accuracy / ECE, percent) by step:",
    ]
    lines += ["", *_pseudo_label_table(runs, out)]
    lines += ["", f"{platform.machine()}, {os.cpu_count()} cores; mean ± standard deviation over the seeds."]
    return "\n".join(lines)


def _pseudo_label_table(runs: Sequence[Run], out: Path) -> list[str]:
    """One line a row and map, the accuracy and ECE of its last console line before each third of the run."""
    lines = ["| row | map | one third | two thirds | end |", "| -- | -- | -- | -- | -- |"]
    for row in dict.fromkeys(run.row for run in runs):
        histories = [read_lines(run.directory(out) / "training.jsonl") for run in runs if run.row == row]
        for name in ("decoder", "sgc", "pseudo"):
            if f"{name}/ece" not in histories[0][-1]:
                continue
            cells = []
            for third in (1, 2, 3):
                at = [history[len(history) * third // 3 - 1] for history in histories]
                accuracy, ece = (
                    mean_and_spread(100 * entry[f"{name}/{key}"] for entry in at)[0]
                    for key in ("pixel_accuracy", "ece")
                )
                cells.append(f"{accuracy:.1f} / {ece:.1f}")
            lines.append(f"| {row} | {name} | " + " | ".join(cells) + " |")
    return lines


def _plot(runs: Sequence[Run], path: Path) -> None:
    """Validation mIoU over the frequent classes against steps: the mean of the seeds, and each of them faintly."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for color, row in enumerate(dict.fromkeys(run.row for run in runs)):
        curves = [
            [
                (entry["step"], _miou(entry, FREQUENT))
                for entry in read_lines(run.directory(path.parent) / "history.jsonl")
            ]
            for run in runs
            if run.row == row
        ]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=f"C{color}", alpha=0.3)
        steps = [step for step, _ in min(curves, key=len)]
        means = [np.mean([curve[i][1] for curve in curves]) for i in range(len(steps))]
        axes.plot(steps, means, "o-", color=f"C{color}", label=f"{row} (seeds: {len(curves)})")
    axes.set(xlabel="step", ylabel="mIoU of the frequent classes, percent", title="Validation while training")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    _app.run(main)
