"""Curves of a run: scores and losses over the steps, drawn as small charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pseudoseg_tf.visualize import plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Sequence[Mapping[str, Any]]
# Step and value of each point.
Curve = Sequence[tuple[int, float]]

# Told apart on white and on black.
COLORS = ("#3b82c4", "#e07b39", "#3a9d5d", "#b65fc4", "#b8901c", "#d14b5a", "#7a7f87")
# Inches.
_WIDTH, _HEIGHT = 4.4, 2.9


def curve(lines: Lines, key: str, factor: float = 1.0) -> Curve:
    """What the lines of ``history.jsonl`` or ``training.jsonl`` say of a key, times ``factor``; may be empty."""
    return [(line["step"], factor * line[key]) for line in lines if key in line]


def chart(title: str, curves: Mapping[str, Curve], log: bool = False) -> Figure:
    """Draws curves over the steps; the legend has their names.

    Args:
      title: what is drawn, and its unit.
      curves: by name, none of them empty.
      log: the axis of the values is logarithmic.
    """
    # Takes half a second to import. The figure is made without pyplot, which would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for position, (name, points) in enumerate(curves.items()):
        few = len(points) <= 20
        axes.plot(
            *zip(*points, strict=True),
            color=COLORS[position % len(COLORS)],
            marker="o" if few else None,
            markersize=4,
            label=plain_text(name),
        )
    axes.set_title(plain_text(title), fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    if log:
        axes.set_yscale("log")
    axes.grid(color="#8a8f98", alpha=0.35, linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
