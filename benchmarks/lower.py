r"""Lowers training to StableHLO, so that accelerators can run it whose machine has JAX but no TensorFlow.

Writes a directory for ``benchmarks.run_lowered``: the training step of each configuration, and the evaluation of an
image of each size, as functions from arrays to arrays; and for each run its first state and, step by step, what the
input pipeline would draw. Images are not in it: the other machine reads the same folder. ``benchmarks.collect_lowered``
makes run directories of what comes back.

Example:
  python -m benchmarks.lower --data=../shared/data/voc12_subset --out=build/lowered --steps=10000 --evaluations=10 \
    --weights=../shared/weights/mobilenet_v1_1.0_imagenet.npz --rows=supervised,unlabeled --seeds=0,1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks.curve_rows import curve_runs
from benchmarks.lowering import lower
from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError

_DATA = flags.DEFINE_string("data", None, "Folder as for benchmarks.learning_curve.")
_WEIGHTS = flags.DEFINE_string("weights", "", "First weights of the backbone, as init.weights.")
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_ROWS = flags.DEFINE_list("rows", [], "Rows of benchmarks.learning_curve; all if empty.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of weights, data order and views.")
_STEPS = flags.DEFINE_integer("steps", 10000, "Steps of every run.", lower_bound=1)
_EVALUATIONS = flags.DEFINE_integer("evaluations", 10, "Evaluations in a run.", lower_bound=1)
_FRACTION = flags.DEFINE_integer("fraction", 8, "One of this many training images is labeled.", lower_bound=2)
_SET = flags.DEFINE_multi_string("set", [], "Change a key of every run.")
_TIMING = flags.DEFINE_bool(
    "timing",
    False,
    "To measure steps alone: leave out the first states, which are large, and the evaluation.",
)


def main(argv: Sequence[str]) -> None:
    """Lowers what the rows need."""
    del argv
    for flag in (_DATA, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name}: missing (--help lists the flags)")
    out = Path(_OUT.value)
    runs = curve_runs(
        Path(_DATA.value),
        out / "lists",
        weights=_WEIGHTS.value,
        fraction=_FRACTION.value,
        steps=_STEPS.value,
        evaluations=_EVALUATIONS.value,
        rows=_ROWS.value,
        seeds=_SEEDS.value,
        changes=_SET.value,
    )
    lower(runs, out, _TIMING.value)


if __name__ == "__main__":
    _app.run(main)
