"""Writes the report of a run, one HTML page that needs no other file: curves, scores, pictures, data, cost.

The checkpoint predicts every validation image once. With --compare, as often as needed, other runs that were scored
on the same images stand beside it: which keys differ, and who sees what.

Example:
  pseudoseg-report --run_dir=runs/shapes
  pseudoseg-report --run_dir=runs/shapes --compare=runs/supervised --checkpoint=best --images=12
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_COMPARE = flags.DEFINE_multi_string("compare", [], "Another such directory, to stand beside it.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "last", "last or best; without --compare also the path of a checkpoint."
)
_OUT = flags.DEFINE_string("out", None, "File to write; RUN_DIR/report.html if not given.")
_IMAGES = flags.DEFINE_integer("images", 8, "Images in the grid of pictures.", lower_bound=1, upper_bound=100)


def main(argv: Sequence[str]) -> None:
    """Scores the runs and writes the page."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory that pseudoseg-train wrote")
    if _COMPARE.value and _CHECKPOINT.value not in ("last", "best"):
        raise UserError(f"--checkpoint: found {_CHECKPOINT.value!r}, must be last or best with --compare")

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.report_page import write_report

    run_dirs = [_RUN_DIR.value, *_COMPARE.value]
    print(f"report: {write_report(run_dirs, _CHECKPOINT.value, _OUT.value, _IMAGES.value)}")


def run() -> None:
    """Entry point of pseudoseg-report."""
    _app.run(main)


if __name__ == "__main__":
    run()
