"""--scales, --flip, --window and --overlap of the programs that predict with a finished run."""

from __future__ import annotations

from typing import Any

from absl import flags

from pseudoseg_tf.config_io import read_flag

# They belong to the program that defines them, whose --help shows them.
flags.disclaim_key_flags()


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string(
        "scales",
        None,
        "Average over the images at these factors of their size. Absent: the run's data.eval_scales.",
    )
    flags.DEFINE_bool("flip", None, "Average over mirrored images, too. Absent: the run's data.eval_flip.")
    flags.DEFINE_string(
        "window",
        None,
        "Predict window by window of this height,width, each 16k+1; 0: whole images. Absent: the run's "
        "data.eval_window.",
    )
    flags.DEFINE_string(
        "overlap",
        None,
        "Overlap of neighboring windows, 0 to 0.95 of one. Absent: the run's data.eval_overlap.",
    )


def values() -> dict[str, Any]:
    """What was given, as keyword arguments of ``config_io.load_for_evaluation``; None: the run's own value holds.

    Raises:
      UserError: a value out of range.
    """
    given: dict[str, Any] = {"flip": flags.FLAGS["flip"].value}
    for name in ("scales", "window", "overlap"):
        text = flags.FLAGS[name].value
        given[name] = None if text is None else read_flag(f"--{name}", f"data.eval_{name}", text)
    return given
