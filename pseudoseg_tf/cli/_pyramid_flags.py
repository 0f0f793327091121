"""--scales and --flip of the programs that predict with a finished run."""

from __future__ import annotations

from absl import flags

from pseudoseg_tf.config_io import parse_scales

# They belong to the program that defines them, whose --help shows them.
flags.disclaim_key_flags()


def define() -> None:
    """Defines both flags."""
    flags.DEFINE_string(
        "scales",
        None,
        "Average over the images at these factors of their size. Absent: the run's data.eval_scales.",
    )
    flags.DEFINE_bool("flip", None, "Average over mirrored images, too. Absent: the run's data.eval_flip.")


def values() -> tuple[tuple[float, ...] | None, bool | None]:
    """Scales and flip as given; None where the run's own value holds.

    Raises:
      UserError: a scale out of range.
    """
    scales = flags.FLAGS["scales"].value
    return None if scales is None else parse_scales("--scales", scales), flags.FLAGS["flip"].value
