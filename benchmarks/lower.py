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

from absl import flags

from benchmarks import _curve_flags
from benchmarks.lowering import lower
from pseudoseg_tf.cli import _app

_curve_flags.define(steps=10000, evaluations=10, seeds=["0"])
_TIMING = flags.DEFINE_bool(
    "timing",
    False,
    "To measure steps alone: leave out the first states, which are large, and the evaluation.",
)


def main(argv: Sequence[str]) -> None:
    """Lowers what the rows need."""
    del argv
    runs, out = _curve_flags.runs("lists")
    lower(runs, out, _TIMING.value)


if __name__ == "__main__":
    _app.run(main)
