"""What the learning curve compares: rows, and the settings that they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudoseg_tf.comparison import Run
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.folder_comparison import FEW_STEPS, draw_lists, folder_overrides, schedule

# The classes that the subset has enough of; the mean over them is less noisy than the one over all.
FREQUENT = ("background", "cat", "cow", "dog", "horse", "person", "sheep")

# Row -> what sets it apart; everything else is shared.
ROWS = {
    "supervised": ("train.mode=supervised",),
    "unlabeled": ("train.mode=unlabeled",),
    "weakly": ("train.mode=weakly",),
    "decoder-only": ("train.mode=unlabeled", "pseudo.source=decoder"),
}


def curve_runs(
    data: Path,
    out: Path,
    *,
    weights: str,
    fraction: int,
    steps: int,
    evaluations: int,
    rows: Sequence[str] = (),
    seeds: Sequence[str] = ("0",),
    changes: Sequence[str] = (),
) -> list[Run]:
    """Draws the labeled list into ``out``; returns the runs seed by seed, so that one broken off has whole seeds.

    Args:
        data: folder as for ``folder_comparison``.
        out: directory of the runs.
        weights: first weights of the backbone, as init.weights.
        fraction: one of so many training images is labeled.
        rows: names of ``ROWS``; all if empty.
        changes: overrides of every run.

    Raises:
        UserError: no such row or seed, or the folder cannot be used.
    """
    rows = rows or list(ROWS)
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise UserError(f"--rows: found {unknown[0]!r}, allowed: {', '.join(ROWS)}")
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit()):
            raise UserError(f"--seeds: found {seed!r}, allowed: integers from 0 on, with commas between")
    draw_lists(data, out, fraction, frequent=FREQUENT)
    shared = (
        *folder_overrides(data, out, weights),
        *schedule(steps, evaluations),
        *FEW_STEPS,
        *changes,
    )
    return [Run(row, int(seed), "folder", (*shared, *ROWS[row])) for seed in seeds for row in rows]
