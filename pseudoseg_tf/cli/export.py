r"""Writes a checkpoint for others to run: as SavedModel, TFLite or ONNX.

The export is loaded in a fresh process and compared with evaluation on validation images of the run; one that differs
too much is not written.

Example:
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/model
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/careful --scales=0.5,0.75,1,1.25,1.5,1.75 --flip
  pseudoseg-export --run_dir=runs/shapes --out=runs/shapes/model.tflite --format=tflite_int8 --size=97
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from absl import flags

from pseudoseg_tf.cli import _app, _prediction_flags
from pseudoseg_tf.config_io import read_flag
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_OUT = flags.DEFINE_string(
    "out", None, "What to write: an absent or empty directory; an absent .tflite or .onnx file."
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "last, best, or the path of a checkpoint.")
_FORMAT = flags.DEFINE_string(
    "format", "saved_model", "saved_model, tflite, tflite_float16, tflite_int8 or onnx."
)
_SIZE = flags.DEFINE_string(
    "size", None, "TFLite: height,width of the largest image, each 16k+1. Absent: the run's data.eval_size."
)
_PRECISION = flags.DEFINE_string(
    "precision",
    None,
    "SavedModel: float32, bfloat16 or float16, of convolutions and activations. Absent: the run's runtime.precision.",
)
_COMPARE = flags.DEFINE_integer("compare", 10, "Validation images to compare on; 0: none.", lower_bound=0)
_MIN_SAME_CLASS = flags.DEFINE_float(
    "min_same_class",
    None,
    "Least part of the pixels, 0 to 1, that must get evaluation's class. Absent: all but rounding; 0.95 for "
    "tflite_float16, 0.85 for tflite_int8.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_CALIBRATION = flags.DEFINE_integer(
    "calibration", 100, "tflite_int8: images of the run that its ranges are measured on.", lower_bound=1
)
_prediction_flags.define()


def main(argv: Sequence[str]) -> None:
    """Exports and says what was written, and how it compares."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    if not _OUT.value:
        raise UserError("--out: missing; name the directory to write, such as runs/first/model")
    how = _prediction_flags.values()
    size = None if _SIZE.value is None else read_flag("--size", "data.crop_size", _SIZE.value)
    precision = (
        None if _PRECISION.value is None else read_flag("--precision", "runtime.precision", _PRECISION.value)
    )

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.export import Format, export

    if _FORMAT.value not in get_args(Format):
        raise UserError(f"--format: found {_FORMAT.value!r}, must be one of {', '.join(get_args(Format))}")
    exported = export(
        _RUN_DIR.value,
        _OUT.value,
        _CHECKPOINT.value,
        **how,
        format=cast(Format, _FORMAT.value),
        size=size,
        precision=precision,
        compare=_COMPARE.value,
        min_same_class=_MIN_SAME_CLASS.value,
        calibration=_CALIBRATION.value,
    )
    print(f"{_OUT.value}: {_FORMAT.value} of {exported.checkpoint}")
    if exported.agreement is not None:
        print(f"compared with evaluation: {exported.agreement}")


def run() -> None:
    """Entry point of pseudoseg-export."""
    _app.run(main)


if __name__ == "__main__":
    run()
