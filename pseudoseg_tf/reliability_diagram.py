"""Reliability diagrams: accuracy over confidence, bin by bin, as Guo et al. draw them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pseudoseg_tf.metrics import CALIBRATION_BINS, Reliability
from pseudoseg_tf.visualize import plain_text, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
# Inches and dots per inch: a diagram is 330 pixels wide.
_SIDE, _DPI = 3.0, 110


def save_reliability_diagrams(path: str | os.PathLike[str], diagrams: Mapping[str, Reliability]) -> None:
    """Draws titled diagrams side by side into a PNG file, see ``reliability_figure``.

    Args:
      path: file to write; it is replaced as a whole or not at all.
      diagrams: title -> what is drawn below it.

    Raises:
      UserError: the file cannot be written.
    """
    save_figure(path, reliability_figure(diagrams))


def reliability_figure(diagrams: Mapping[str, Reliability]) -> Figure:
    """Draws titled diagrams side by side.

    Bars are the accuracy of each bin, crosses what it would be if confidences were right (their mean), the red steps
    the share of the pixels that the bin holds.

    Args:
      diagrams: title -> what is drawn below it.
    """
    # Takes half a second to import. The figure is made without pyplot, which would look for a display.
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(diagrams))
    rows = math.ceil(len(diagrams) / columns)
    figure = Figure(figsize=(_SIDE * columns, 1.08 * _SIDE * rows), dpi=_DPI, layout="constrained")
    left = np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
    for position, (title, reliability) in enumerate(diagrams.items()):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.set_title(f"{plain_text(title)}\nECE {100 * reliability.ece:.2f}", fontsize=9)
        axes.bar(
            left, reliability.accuracy, 1 / CALIBRATION_BINS, align="edge", color="#5b9bd5", edgecolor="none"
        )
        axes.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        axes.plot(reliability.confidence, reliability.confidence, "kx", markersize=4)
        share = reliability.pixels / reliability.pixels.sum()
        axes.stairs(share, [*left, 1.0], color="#cb181d", linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel("confidence", fontsize=8)
        axes.set_ylabel("accuracy; red: share of pixels", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure
