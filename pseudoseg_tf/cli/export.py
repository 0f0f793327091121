"""Writes a checkpoint as a SavedModel: uint8 images in, labels and probabilities out, nothing else needed.

Example:
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/model
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/careful --scales=0.5,0.75,1,1.25,1.5,1.75 --flip
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.config_io import parse_scales
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must be absent or empty.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "last, best, or the path of a checkpoint.")
_SCALES = flags.DEFINE_string(
    "scales",
    None,
    "Average over the images at these factors of their size. Absent: the run's data.eval_scales.",
)
_FLIP = flags.DEFINE_bool(
    "flip", None, "Average over mirrored images, too. Absent: the run's data.eval_flip."
)


def main(argv: Sequence[str]) -> None:
    """Exports and says what was written."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    if not _OUT.value:
        raise UserError("--out: missing; name the directory to write, such as runs/first/model")
    scales = None if _SCALES.value is None else parse_scales("--scales", _SCALES.value)

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.export import export

    path = export(_RUN_DIR.value, _OUT.value, _CHECKPOINT.value, scales, _FLIP.value)
    print(f"{_OUT.value}: SavedModel of {path}")


def run() -> None:
    """Entry point of pseudoseg-export."""
    _app.run(main)


if __name__ == "__main__":
    run()
