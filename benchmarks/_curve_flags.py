"""The flags of the programs that take the learning curve's runs, and the runs that they mean."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from benchmarks.curve_rows import curve_runs
from pseudoseg_tf.comparison import Run
from pseudoseg_tf.errors import UserError

# They belong to the program that defines them, whose --help shows them.
flags.disclaim_key_flags()


def define(*, steps: int, evaluations: int, seeds: list[str]) -> None:
    """Defines the flags; the values are their defaults."""
    flags.DEFINE_string(
        "data", None, "Folder with images/, masks/, classes.txt, train.txt, val.txt, aug_extra.txt."
    )
    flags.DEFINE_string("weights", "imagenet", "First weights of the backbone, as init.weights.")
    flags.DEFINE_string("out", None, "Directory to write.")
    flags.DEFINE_list("rows", [], "Rows to take; all if empty.")
    flags.DEFINE_list("seeds", seeds, "Seeds of weights, data order and views.")
    flags.DEFINE_integer("fraction", 8, "One of this many training images is labeled.", lower_bound=2)
    flags.DEFINE_integer("steps", steps, "Steps of every run.", lower_bound=1)
    flags.DEFINE_integer("evaluations", evaluations, "Evaluations in a run.", lower_bound=1)
    flags.DEFINE_multi_string("set", [], "Change a key of every run.")


def runs(lists: str = "") -> tuple[list[Run], Path]:
    """Draws the labeled list; returns the runs and --out.

    Args:
        lists: folder below --out that receives the lists.

    Raises:
        UserError: --data or --out is missing, or as ``curve_runs``.
    """
    values = flags.FLAGS
    for name in ("data", "out"):
        if not values[name].value:
            raise UserError(f"--{name}: missing (--help lists the flags)")
    out = Path(values.out)
    meant = curve_runs(
        Path(values.data),
        out / lists,
        weights=values.weights,
        fraction=values.fraction,
        steps=values.steps,
        evaluations=values.evaluations,
        rows=values.rows,
        seeds=values.seeds,
        changes=values.set,
    )
    return meant, out
