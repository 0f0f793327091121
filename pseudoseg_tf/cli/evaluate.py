"""Scores a checkpoint on the validation images of its run; writes metrics.json into the run directory.

Example:
  pseudoseg-evaluate --run_dir=runs/shapes --checkpoint=best
  pseudoseg-evaluate --run_dir=runs/shapes --checkpoint=best --scales=0.5,0.75,1,1.25,1.5,1.75 --flip
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app, _prediction_flags
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or the path of a checkpoint.")
_prediction_flags.define()


def main(argv: Sequence[str]) -> None:
    """Evaluates and prints the scores, in percent."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    how = _prediction_flags.values()

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.evaluate import evaluate

    result = evaluate(_RUN_DIR.value, _CHECKPOINT.value, **how)
    width = max(map(len, result["iou"]))
    print(f"{'class':{width}}     IoU")
    for name, value in result["iou"].items():
        print(f"{name:{width}}  {'-':>6}" if value is None else f"{name:{width}}  {100 * value:6.2f}")
    print(
        f"mIoU {100 * result['miou']:.2f}  pixel accuracy {100 * result['pixel_accuracy']:.2f}  "
        f"ECE {100 * result['ece']:.2f}  ({result['images']} images, step {result['step']})"
    )


def run() -> None:
    """Entry point of pseudoseg-evaluate."""
    _app.run(main)


if __name__ == "__main__":
    run()
