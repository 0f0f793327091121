"""Compares how well calibrated pseudo labels are: decoder, SGC, and their fusion with and without Norm and sharpening.

Prints expected calibration error, pixel accuracy, mean confidence and mIoU of each map on the validation images,
and writes calibration.json and reliability.png.

Example:
  pseudoseg-calibrate --run_dir=runs/shapes --checkpoint=best
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or the path of a checkpoint.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; RUN_DIR/calibration if not given.")
_IMAGE_LABELS = flags.DEFINE_enum(
    "image_labels",
    None,
    ["predicted", "given"],
    "Classes whose Grad-CAM is seen: those predicted, or those of the mask; as in training if not given.",
)


def main(argv: Sequence[str]) -> None:
    """Compares the maps and prints a table, in percent."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    out = _OUT.value or os.path.join(_RUN_DIR.value, "calibration")

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.calibration import calibrate

    result = calibrate(_RUN_DIR.value, _CHECKPOINT.value, out, _IMAGE_LABELS.value)
    if result["image_labels"] is None:
        print("The self-attention (SGC) of this run was never trained: only the decoder is compared.")
    width = max(map(len, result["maps"]))
    print(f"{'map':{width}}     ECE  accuracy  confidence    mIoU")
    for name, scores in result["maps"].items():
        ece, accuracy, confidence, miou = (
            100 * scores[key] for key in ("ece", "pixel_accuracy", "mean_confidence", "miou")
        )
        print(f"{name:{width}}  {ece:6.2f}  {accuracy:8.2f}  {confidence:10.2f}  {miou:6.2f}")
    print(f"{out}: calibration.json, reliability.png ({result['images']} images, step {result['step']})")


def run() -> None:
    """Entry point of pseudoseg-calibrate."""
    _app.run(main)


if __name__ == "__main__":
    run()
