"""The check of a data set as an HTML page: findings, tables, and masks laid over their images."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.findings import ListSummary, Report
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text
from pseudoseg_tf.page import page, swatch, table
from pseudoseg_tf.progress import Progress
from pseudoseg_tf.visualize import class_legend, colorize, overlay, picture_grid, save_image

# Longer side, in pixels, of each of the pictures in a row.
_TILE = 320


def write_page(report: Report, folder: Path, title: str) -> Path:
    """Writes `folder/index.html` and the pictures beside it, in `folder/pictures`.

    Args:
      report: what was found.
      folder: made if absent; files of an earlier page are replaced.
      title: what was checked.

    Returns:
      The path of the page.

    Raises:
      UserError: a file cannot be written, or one of the images read before cannot be read any more.
    """
    pictures = folder / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
    shown = list(_samples(report))
    figures = []
    with Progress(len(shown), "pictures") as progress:
        for class_id, key, index in shown:
            figures.append(_figure(report, class_id, key, index, pictures))
            progress.update()
    colors = {(row, 0): swatch(color) for row, color in enumerate(report.info.palette)}
    parts = [
        "<h2>Findings</h2>",
        *_findings(report),
        "<h2>Lists</h2>",
        table(report.list_table(), "lists"),
        "<h2>Classes</h2>",
        table(report.class_table(), "classes", colors),
        "<h2>Masks</h2>",
        "<p>For each class the images with most of its pixels: image, mask laid over it, mask. Background and "
        "ignored pixels are not tinted.</p>",
        *figures,
    ]
    path = folder / "index.html"
    write_text(path, page(title, parts))
    return path


def _samples(report: Report) -> Iterator[tuple[int, str, int]]:
    """Class id, list and index of each image to show: labeled ones, of classes without them those of val."""
    for class_id in range(report.info.num_classes):
        for key in ("data.labeled", "data.val"):
            samples = report.lists[key].samples.get(class_id) if key in report.lists else None
            if samples:
                yield from ((class_id, key, index) for _, index in samples)
                break


def _figure(report: Report, class_id: int, key: str, index: int, pictures: Path) -> str:
    """Writes the picture of a record and returns the HTML that shows it."""
    info = report.info
    summary: ListSummary = report.lists[key]
    record = summary.source.read(index)
    image, labels = decode_record(record, info.num_classes)
    panel = picture_grid(
        {
            "image": [image],
            "overlay": [overlay(image, labels, info.palette, background=info.has_background)],
            "mask": [colorize(labels, info.palette)],
        },
        tile=_TILE,
        legend=class_legend(np.unique(labels), info.palette, info.class_names),
    )
    name = f"class{class_id:03}_{key.removeprefix('data.')}_{index}.jpg"
    save_image(pictures / name, panel)
    caption = html.escape(f"{info.class_names[class_id]}: {record.id} ({key})")
    return f'<figure><figcaption>{caption}</figcaption><img src="pictures/{name}" alt="{caption}"></figure>'


def _findings(report: Report) -> list[str]:
    if not report.findings:
        return ["<p>None.</p>"]
    parts = []
    for finding in report.findings:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in finding.text())
        heading = html.escape(f"{finding.severity}: {finding.kind} ({finding.count:,})")
        parts.append(f'<h3 class="{finding.severity}">{heading}</h3><ul>{lines}</ul>')
    return parts
