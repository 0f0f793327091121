"""Writes a checkpoint as a SavedModel: uint8 images in, labels and probabilities out, nothing else needed.

Example:
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/model
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/careful --scales=0.5,0.75,1,1.25,1.5,1.75 --flip
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app, _prediction_flags
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must be absent or empty.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "last, best, or the path of a checkpoint.")
_prediction_flags.define()


def main(argv: Sequence[str]) -> None:
    """Exports and says what was written."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    if not _OUT.value:
        raise UserError("--out: missing; name the directory to write, such as runs/first/model")
    how = _prediction_flags.values()

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.export import export

    path = export(_RUN_DIR.value, _OUT.value, _CHECKPOINT.value, **how)
    print(f"{_OUT.value}: SavedModel of {path}")


def run() -> None:
    """Entry point of pseudoseg-export."""
    _app.run(main)


if __name__ == "__main__":
    run()
