"""Learns the first features of the drawn images from close-ups; about six minutes on one core.

Example, how the file in the package was made:
  python -m pseudoseg_tf.cli.closeups --out=pseudoseg_tf/closeup_features.npz
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.presets import preset

_OUT = flags.DEFINE_string("out", None, "File for the features; ends in .npz.")


def main(argv: Sequence[str]) -> None:
    """Learns and writes the features."""
    del argv
    if not (_OUT.value or "").endswith(".npz"):
        raise UserError(f"--out: found {_OUT.value!r}, expected a file name that ends in .npz")
    if not Path(_OUT.value).parent.is_dir():
        raise UserError(f"--out: {Path(_OUT.value).parent}: no such directory; make it first")

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.closeups import learn_features

    accuracy = learn_features(preset("shapes"), _OUT.value)
    print(f"{100 * accuracy:.0f} percent of unseen close-ups are named correctly; features in {_OUT.value}")


if __name__ == "__main__":
    _app.run(main)
