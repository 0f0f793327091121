"""Our results beside the paper's: as text, as Markdown and as a picture. What was not run is said so, never guessed."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from pseudoseg_tf import config_io
from pseudoseg_tf.comparison import Run, last_and_best, markdown_table, mean_and_spread, read_lines
from pseudoseg_tf.experiments.definition import Experiment, Row
from pseudoseg_tf.files import read_json
from pseudoseg_tf.visualize import save_figure

NOT_RUN = "not run"
# Points that an axis covers at least: on one of a hundredth any difference looks large.
_LEAST_SPAN = 5.0
_COLUMNS = ("row", "paper", "last", "best", "seeds", "note")


@dataclasses.dataclass(frozen=True)
class Result:
    """What the finished runs of a row have, a value a seed.

    Attributes:
        last: the experiment's metric after the last step, percent.
        best: mIoU of the best evaluation on the way, percent.
        note: what is missing.
    """

    row: Row
    last: tuple[float, ...] = ()
    best: tuple[float, ...] = ()
    note: str = NOT_RUN


def read_result(row: Row, run: Run, root: Path) -> Result:
    """Reads the runs of a row, whichever seeds are there.

    Args:
        run: one of them; the others are at its place with other seeds.
    """
    last: list[float] = []
    best: list[float] = []
    unfinished = []
    for seed in sorted(_seeds_there(run, root)):
        directory = dataclasses.replace(run, seed=seed).scored(root)
        if row.kind == "calibrate":
            last += _calibration_error(row, directory)
        elif read_lines(directory / "history.jsonl"):
            steps = config_io.load(directory).train.steps
            at_last, at_best = last_and_best(directory)
            if at_last["step"] < steps:
                unfinished.append(f"seed {seed} at step {at_last['step']} of {steps}")
            else:
                last.append(100 * at_last["miou"])
                best.append(100 * at_best["miou"])
    note = ", ".join(unfinished) or ("" if last else NOT_RUN)
    return Result(row, tuple(last), tuple(best), note)


def calibration_file(directory: Path) -> Path:
    """What ``pseudoseg-calibrate`` writes for a run directory."""
    return directory / "calibration" / "calibration.json"


def _seeds_there(run: Run, root: Path) -> list[int]:
    names = (path.name.removeprefix(f"{run.row}-seed") for path in root.glob(f"{run.row}-seed*"))
    return [int(name) for name in names if name.isdecimal()]


def _calibration_error(row: Row, directory: Path) -> list[float]:
    if not calibration_file(directory).exists():
        return []
    maps = read_json(calibration_file(directory))["maps"]
    return [100 * scores["ece"] for name, scores in maps.items() if re.sub("[, ]+", "-", name) == row.name]


def without_scores(result: Result) -> Result:
    """The same with "runs" in place of scores, for runs of two steps, whose scores mean nothing."""
    return Result(result.row, note="runs" if result.last else result.note)


def report_cells(results: Sequence[Result]) -> list[list[str]]:
    """The table of an experiment; the first line is the header."""
    lines = [list(_COLUMNS)]
    for result in results:
        lines.append(
            [
                result.row.name,
                paper_value(result.row),
                _over_seeds(result.last),
                _over_seeds(result.best),
                str(len(result.last) or "-"),
                result.note,
            ]
        )
    return lines


def paper_value(row: Row) -> str:
    """The paper's number, or that none is known."""
    return "unknown" if row.paper is None else f"{row.paper:.2f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells as text in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def overview(experiments: Iterable[tuple[str, Experiment]]) -> str:
    """All rows of all experiments as Markdown: the content of ``experiments/README.md``."""
    parts = [
        "# The experiments of the paper",
        "",
        "Made by `pseudoseg-experiment overview > experiments/README.md`; change the other files of this directory.",
        "Percent. Paper: as the sources below each table give it; unknown: none of them does. Ours: last mIoU under",
        "the full budget, which wants several accelerators for days. What was run under the cpu budget, and which of",
        "the paper's orders hold there: ../benchmarks/RESULTS.md.",
    ]
    for name, experiment in experiments:
        lines = [["row", f"paper, {experiment.metric.removesuffix(', percent')}", "ours", "command"]]
        for row in experiment.rows:
            command = f"pseudoseg-experiment run {name} --only={row.name} --budget=full"
            ours = NOT_RUN if row.ours is None else f"{row.ours:.2f}"
            lines.append([row.name, paper_value(row), ours, f"`{command}`"])
        parts += ["", f"## {name}: {experiment.title}", "", markdown_table(lines), ""]
        parts += [f"- {source}" for source in experiment.sources]
    return "\n".join(parts)


def plot(heading: str, metric: str, results: Sequence[Result], path: Path, one_scale: bool) -> None:
    """Draws the paper's values and ours, a line a row; rows without either stay empty.

    Args:
        heading: stands above.
        metric: of ``Row.paper``.
        path: of the picture.
        one_scale: whether both stand on one scale, for runs as large as the paper's; else side by side, each on its
            own, which shows the order of the rows.
    """
    # Takes half a second to import. The figure is made without pyplot, which would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.8 + 0.35 * len(results)), dpi=120, layout="constrained")
    figure.suptitle(textwrap.fill(heading, 80))
    panels = figure.subplots(1, 1 if one_scale else 2, sharey=True, squeeze=False)[0]
    axes, axes_of_paper = panels[0], panels[-1]
    places = range(len(results))
    papers = [
        (place, r.row.paper) for place, r in zip(places, results, strict=True) if r.row.paper is not None
    ]
    if papers:
        values = [value for _, value in papers]
        axes_of_paper.plot(values, [place for place, _ in papers], "k|", ms=14, label="paper")
    for which, color in (("best", "0.7"), ("last", "C0")):
        ours = [
            (place, getattr(r, which)) for place, r in zip(places, results, strict=True) if getattr(r, which)
        ]
        if ours:
            spreads = [mean_and_spread(values) for _, values in ours]
            axes.errorbar(
                [mean for mean, _ in spreads],
                [place for place, _ in ours],
                xerr=[spread for _, spread in spreads],
                fmt="o",
                color=color,
                label=f"ours, {which}",
            )
    axes.set_yticks(list(places), [f"{r.row.name}{f' ({r.note})' if r.note else ''}" for r in results])
    # The first row at the top, with half a row of room at both ends.
    axes.set_ylim(len(results) - 0.5, -0.5)
    for panel in panels:
        panel.set_xlabel(metric)
        left, right = panel.get_xlim()
        more = max(0.0, _LEAST_SPAN - (right - left)) / 2
        panel.set_xlim(left - more, right + more)
        panel.grid(axis="x", alpha=0.3)
    if any(panel.get_legend_handles_labels()[0] for panel in panels):
        figure.legend(loc="outside lower center", ncols=3)
    save_figure(path, figure)


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, spread = mean_and_spread(values)
    return f"{mean:.2f} ± {spread:.2f}" if len(values) > 1 else f"{mean:.2f}"
