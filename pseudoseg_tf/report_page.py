"""The report of a run as one HTML page: what was run, curves, scores, pictures, data, cost."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pseudoseg_tf.comparison import seconds_per_step
from pseudoseg_tf.config_io import as_text, difference_table, flatten
from pseudoseg_tf.cost import forward_passes, images_per_step
from pseudoseg_tf.curves import Curve, chart, curve
from pseudoseg_tf.data.class_counts import count_pixels
from pseudoseg_tf.data.selection import Selection
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.data.specs import DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory, write_text
from pseudoseg_tf.page import figure, page, picture, scroller, swatch, table
from pseudoseg_tf.presets import PRESETS, preset
from pseudoseg_tf.reliability_diagram import reliability_figure
from pseudoseg_tf.run_report import Explained, ReportedRun, Scores, open_runs
from pseudoseg_tf.trainer import MAP_TITLES
from pseudoseg_tf.visualize import class_heat, palette_picture

Parts = Iterator[str]

# Longer side of each picture, in pixels.
_TILE = 240
# Images among the worst, and among the best.
_EXTREMES = 4
# Masks that are read for the table of classes, at most.
_COUNTED = 2000

_STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21em), 1fr)); gap: 1em; }
.charts figure { margin: 0; }
td:has(.track) { position: relative; padding-left: 6.5em; }
.track { position: absolute; left: 0.6em; width: 5em; text-align: left; }
.bar { display: inline-block; width: calc(var(--share) * 100%); height: 0.7em; background: var(--bar); }
.confusion th, .confusion td { padding: 0.15em 0.35em; font-size: 0.8125rem; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; vertical-align: top; }
.confusion td { text-align: right; background: rgb(59 130 196 / calc(var(--share) * 75%)); }
.confusion th[scope=row] { position: sticky; left: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2em 1em; margin: 1em 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5em, 1fr)); gap: 0.5em; }
.tiles figure { margin: 0; }
.tiles img { display: block; width: 100%; outline: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6em 0 0.4em; }
"""


def write_report(
    run_dirs: Sequence[str],
    checkpoint: str = "last",
    out: str | os.PathLike[str] | None = None,
    images: int = 8,
) -> Path:
    """Writes the report of a run, alone or beside others that were scored on the same images.

    Every run predicts all validation images once.

    Args:
      run_dirs: directories that ``train`` wrote. The report is on the first; the others are compared with it.
      checkpoint: "last" or "best"; the path of a checkpoint if there is but one run.
      out: the file; None: ``report.html`` in the first directory. It is replaced as a whole or not at all.
      images: rows of the grid of pictures, 1 or more.

    Returns:
      The path of the page, which needs no other file.

    Raises:
      UserError: a run, its checkpoint or its data cannot be read, the runs cannot be compared, or ``out`` cannot be
        written.
    """
    path = Path(out) if out is not None else Path(run_dirs[0]) / "report.html"
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name the file to write, such as {path / 'report.html'}")
    check_directory(path.parent)
    runs = open_runs(run_dirs, checkpoint)
    ours, info = runs[0], runs[0].info
    sources = open_sources(ours.config.data, ours.config.train.mode)
    scored = [run.score() for run in runs]
    by_quality = _by_quality(scored[0])
    spread = np.rint(np.linspace(0, len(by_quality) - 1, min(images, len(by_quality)))).astype(int)
    grid, best, worst = (
        by_quality[chosen].tolist() for chosen in (spread, slice(_EXTREMES), slice(None, -_EXTREMES - 1, -1))
    )
    shown = sorted({*grid, *best, *worst})
    seen = dict(zip(shown, zip(*(run.explain(shown) for run in runs), strict=True), strict=True))

    sections: dict[str, Iterable[str]] = {
        "Result": _result(runs, scored),
        "What was run": _what_was_run(runs),
        "Curves": _curves(runs),
        "Classes": _classes(runs, scored),
        "Confusion": _confusion(runs, scored),
        "Calibration": _calibration(runs, scored),
        "Pictures": [
            f"<p>Validation images from the best to the worst by the mean IoU of {html.escape(ours.name)}, evenly "
            "spread. Grad-CAM and SGC know only the classes that the image classifier finds, or, in weakly mode, that "
            "are there.</p>",
            _legend(info),
            *(_row(runs, scored, index, seen[index], with_maps=True) for index in grid),
        ],
        "Best images": (_row(runs, scored, index, seen[index], with_maps=False) for index in best),
        "Worst images": (_row(runs, scored, index, seen[index], with_maps=False) for index in worst),
        "Data": _data(sources, scored[0]),
        "Cost": _cost(runs),
    }
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<a href="#{anchor}">{title}</a>' for title, anchor in anchors.items())
    parts = [f'<nav aria-label="sections">{links}</nav>']
    for title, content in sections.items():
        parts += [f'<section id="{anchors[title]}"><h2>{title}</h2>', *content, "</section>"]
    names = [run.name for run in runs]
    title = f"Report of {names[0]}" + (f", beside {', '.join(names[1:])}" if names[1:] else "")
    write_text(path, page(title, parts, _STYLE))
    return path


def _by_quality(scored: Scores) -> npt.NDArray[np.intp]:
    """The validation images that have labels, the best first."""
    order = np.argsort(-scored.image_miou, kind="stable")
    return order[: np.isfinite(scored.image_miou).sum()]


def _result(runs: Sequence[ReportedRun], scored: Sequence[Scores]) -> Parts:
    rows = [
        ["run", "mode", "last mIoU", "best mIoU", "at step", "scored step", "mIoU", "pixel accuracy", "ECE"]
    ]
    for run, each in zip(runs, scored, strict=True):
        best = max(run.history, key=lambda entry: entry["miou"])
        rows.append(
            [
                *(run.name, run.config.train.mode),
                *(
                    _percent(run.history[-1]["miou"]),
                    _percent(best["miou"]),
                    str(best["step"]),
                    str(run.step),
                ),
                *(_percent(each.summary[name]) for name in ("miou", "pixel_accuracy", "ece")),
            ]
        )
    yield table(rows, "scores")
    yield (
        f'<p class="faint">Percent, over {len(runs[0].val)} validation images. Last and best are of the evaluations in '
        "training; a best one is chosen on the images it is scored on. The columns after the scored step are of the "
        "checkpoint that the rest of this page is about. ECE: expected calibration error.</p>"
    )


def _what_was_run(runs: Sequence[ReportedRun]) -> Parts:
    """Every key in which the runs differ from their preset or from one another."""
    configs = {run.name: run.config for run in runs}
    if len(runs) > 1:
        rows = difference_table(configs)
        yield "<h3>Between the runs</h3>"
        yield table(rows, "keys that differ between the runs") if rows[1:] else "<p>No key differs.</p>"
    presets = {run.record.preset for run in runs}
    if len(presets) == 1 and presets <= set(PRESETS):
        (name,) = presets
        rows = difference_table({f"preset {name}": preset(name), **configs})
        yield "<h3>From the preset</h3>"
        yield table(rows, "keys that differ from the preset") if rows[1:] else "<p>No key differs.</p>"
    else:
        every = [[key, as_text(value)] for key, value in flatten(runs[0].config).items()]
        yield f"<details><summary>Every key of {html.escape(runs[0].name)}</summary>"
        yield f"{table([['key', 'value'], *every], 'keys')}</details>"
    rows = [["run", "directory", "versions"]]
    for run in runs:
        versions = ", ".join(f"{library} {version}" for library, version in run.record.versions.items())
        rows.append([run.name, str(run.directory), versions])
    yield table(rows, "runs")


def _curves(runs: Sequence[ReportedRun]) -> Parts:
    def of_runs(attribute: str, key: str) -> dict[str, Curve]:
        return {run.name: curve(getattr(run, attribute), key, 100) for run in runs}

    ours = runs[0].training
    terms = (
        {key.removeprefix("loss/"): curve(ours, key) for key in ours[-1] if key.startswith("loss/")}
        if ours
        else {}
    )
    # A term that is 0 has no place on a logarithmic axis.
    terms = {name: [(step, value) for step, value in points if value > 0] for name, points in terms.items()}
    charts = {
        "validation mIoU, percent": of_runs("history", "miou"),
        "validation pixel accuracy, percent": of_runs("history", "pixel_accuracy"),
        "validation ECE, percent": of_runs("history", "ece"),
        f"losses of {runs[0].name}": terms,
        "pseudo-label accuracy, percent": {
            name: curve(ours, f"{key}/pixel_accuracy", 100) for key, name in MAP_TITLES.items()
        },
        "pseudo-label ECE, percent": {
            name: curve(ours, f"{key}/ece", 100) for key, name in MAP_TITLES.items()
        },
    }
    drawn = []
    for title, curves in charts.items():
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            alt = f"{title}, over the steps: " + "; ".join(
                f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in curves.items()
            )
            drawn.append(
                f"<figure>{figure(chart(title, curves, log=title.startswith('losses')), alt)}</figure>"
            )
    yield f'<div class="charts">{"".join(drawn)}</div>'
    if not curve(ours, "pseudo/ece"):
        yield (
            '<p class="faint">Pseudo labels are scored in training where the additional images have masks; here they '
            "have none, or the run has no pseudo labels.</p>"
        )


def _classes(runs: Sequence[ReportedRun], scored: Sequence[Scores]) -> Parts:
    info = runs[0].info
    shares = scored[0].confusion.sum(axis=1) / scored[0].confusion.sum()
    rows = [["class", "share of pixels", *(f"IoU of {run.name}" for run in runs)]]
    marks = {}
    for k, name in enumerate(info.class_names):
        ious = [each.summary["iou"][name] for each in scored]
        rows.append([name, f"{100 * shares[k]:.2f}", *map(_percent, ious)])
        marks[k, 0] = swatch(info.palette[k])
        marks |= {(k, 2 + column): _bar(iou) for column, iou in enumerate(ious) if iou is not None}
    yield table(rows, "IoU of each class", marks)
    yield '<p class="faint">Percent. A class without a number is neither label nor prediction.</p>'


def _bar(share: float) -> str:
    return f'<span class="track"><span class="bar" style="--share: {share:.4f}"></span></span>'


def _confusion(runs: Sequence[ReportedRun], scored: Sequence[Scores]) -> Parts:
    yield "<p>Rows are labels, columns predictions: percent of the pixels of a label.</p>"
    for number, (run, each) in enumerate(zip(runs, scored, strict=True)):
        opened = "" if number else " open"
        name = html.escape(run.name)
        yield f"<details{opened}><summary>{name}</summary>{_confusion_table(run, each)}</details>"


def _confusion_table(run: ReportedRun, scored: Scores) -> str:
    confusion = scored.confusion
    seen = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    names = [html.escape(run.info.class_names[k]) for k in seen]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for k, name in zip(seen, names, strict=True):
        shares = confusion[k, seen] / max(1, confusion[k].sum())
        cells = "".join(f'<td style="--share: {share:.3f}">{100 * share:.0f}</td>' for share in shares)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return scroller(
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "</tbody></table>",
        f"confusion matrix of {run.name}",
    )


def _calibration(runs: Sequence[ReportedRun], scored: Sequence[Scores]) -> Parts:
    drawn = []
    for run, each in zip(runs, scored, strict=True):
        alt = f"reliability diagram of {run.name}: ECE {_percent(each.summary['ece'])} percent"
        drawn.append(f"<figure>{figure(reliability_figure({run.name: each.reliability}), alt)}</figure>")
    yield f'<div class="charts">{"".join(drawn)}</div>'
    yield (
        '<p class="faint">Bars: accuracy of the pixels of a confidence; crosses: their mean confidence, where the bars '
        "would end if it were right; red: share of the pixels.</p>"
    )


def _row(
    runs: Sequence[ReportedRun],
    scored: Sequence[Scores],
    index: int,
    seen: Sequence[Explained],
    *,
    with_maps: bool,
) -> str:
    """Titled pictures of an image: input, ground truth, maps of the first run, predictions of all runs."""
    info, first = runs[0].info, seen[0]
    # The others first: what the report is on stands last, beside what it is compared with.
    predictions = {
        f"{run.name} {_percent(each_scored.image_miou[index])}": each.prediction
        for run, each_scored, each in [*zip(runs, scored, seen, strict=True)][::-1]
    }
    maps = {"SGC": first.sgc, "decoder": first.decoder, "pseudo label": first.pseudo_label}
    ids = {**maps, **predictions} if with_maps else predictions
    tiles = {
        "input": Image.fromarray(first.image),
        "ground truth": palette_picture(first.labels, info.palette),
    }
    if with_maps and first.cam is not None:
        tiles["Grad-CAM"] = Image.fromarray(class_heat(first.cam, info.palette, info.has_background))
    tiles |= {
        title: palette_picture(labels, info.palette) for title, labels in ids.items() if labels is not None
    }
    figures = "".join(
        f"<figure>{picture(_small(tile), title)}<figcaption>{html.escape(title)}</figcaption></figure>"
        for title, tile in tiles.items()
    )
    return f'<h3>{html.escape(runs[0].val.ids[index])}</h3><div class="tiles">{figures}</div>'


def _small(image: Image.Image) -> Image.Image:
    factor = min(1.0, _TILE / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.LANCZOS)


def _legend(info: DatasetInfo) -> str:
    entries = zip(info.palette, info.class_names, strict=True)
    return (
        '<div class="legend">'
        + "".join(f"<span>{swatch(color)}{html.escape(name)}</span>" for color, name in entries)
        + "</div>"
    )


def _data(sources: Sources, scored: Scores) -> Parts:
    info = sources.info
    lists = {"labeled": sources.labeled, "additional": sources.unlabeled, "validation": sources.val}
    rows = [["list", "images", "with masks"]]
    for name, source in lists.items():
        if source is not None:
            masks = sum(map(source.has_mask, range(len(source))))
            rows.append([name, f"{len(source):,}", f"{masks:,}"])
    yield table(rows, "lists")
    notes = [f"Background: {info.background}.", *sources.notes]
    yield f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>"
    labeled = len(sources.labeled)
    counted = np.unique(np.linspace(0, labeled - 1, min(labeled, _COUNTED)).astype(int))
    pixels = count_pixels(Selection(sources.labeled, counted.tolist()))
    in_val = scored.confusion.sum(axis=1)
    rows = [["class", "labeled images", "labeled pixels, percent", "validation pixels, percent"]]
    for k, name in enumerate(info.class_names):
        shares = (each[k] / max(1, each.sum()) for each in (pixels.sum(axis=0), in_val))
        rows.append([name, str((pixels[:, k] > 0).sum()), *(f"{100 * share:.2f}" for share in shares)])
    yield table(rows, "classes in the data", {(k, 0): swatch(color) for k, color in enumerate(info.palette)})
    if len(counted) < labeled:
        yield f'<p class="faint">The labeled masks of {len(counted):,} of {labeled:,} images were read.</p>'


def _cost(runs: Sequence[ReportedRun]) -> Parts:
    rows = [
        [
            *("run", "parameters, million", "steps", "forward passes a step", "billion multiply-adds a pass"),
            *("seconds a step", "images/s", "hours of steps", "peak memory, MB"),
        ]
    ]
    for run in runs:
        seconds, steps = seconds_per_step(run.directory), run.history[-1]["step"]
        known = math.isfinite(seconds)
        rows.append(
            [
                *(run.name, f"{run.parameters / 1e6:.2f}", f"{steps:,}", str(forward_passes(run.config))),
                f"{run.count_pass().multiply_accumulates / 1e9:.3g}",
                f"{seconds:.3g}" if known else "-",
                f"{images_per_step(run.config) / seconds:.3g}" if known else "-",
                f"{seconds * steps / 3600:.3g}" if known else "-",
                f"{run.training[-1]['peak_memory_mb']:,}" if run.training else "-",
            ]
        )
    yield table(rows, "cost")
    yield (
        '<p class="faint">Seconds: the median over the console lines, evaluation not counted. A backward pass counts '
        "as two forward passes. Memory: of the process, not of accelerators.</p>"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"
