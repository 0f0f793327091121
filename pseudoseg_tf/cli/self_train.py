r"""Self-training: trains a teacher on the labeled images, then a student also on what the teacher predicts.

Makes RUN_DIR/teacher (a run of supervised mode), RUN_DIR/pseudo_labels (a mask for each unlabeled image; pixels of
which the teacher is not confident are 255, ignored) and RUN_DIR/student (a run of supervised mode on labeled and
pseudo-labeled images). Killed at any moment, the same command continues where it was.

Example:
  pseudoseg-self-train --preset=shapes --run_dir=runs/self_training
  pseudoseg-evaluate --run_dir=runs/self_training/student

Presets and keys are those of pseudoseg-train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.presets import PRESETS, preset

_PRESET = flags.DEFINE_string(
    "preset", None, f"Experiment to start from: {', '.join(PRESETS)}. Not needed to continue."
)
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of teacher, pseudo labels and student.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key, of teacher and student: --set train.steps=2000")
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Pixels of at most this confidence are ignored; 0 to 1. Absent: that of the pseudo labels there are, else 0.5.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check everything, print the plan and its cost; no training.")


def main(argv: Sequence[str]) -> None:
    """Resolves the configuration, then prints the plan or trains."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory of the runs, such as runs/self_training")
    if _THRESHOLD.value is not None and not 0 <= _THRESHOLD.value < 1:
        raise UserError(f"--threshold: found {_THRESHOLD.value:g}, must be 0 or greater, and less than 1")
    teacher_dir = Path(_RUN_DIR.value) / "teacher"
    if _PRESET.value:
        config = preset(_PRESET.value)
    elif (teacher_dir / "config.json").is_file():
        config = config_io.load(teacher_dir)
    else:
        raise UserError(f"--preset: missing, no run in {teacher_dir}; presets: {', '.join(PRESETS)}")
    config = config_io.apply_overrides(config, _SET.value)
    config_io.validate(config)

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    if _DRY_RUN.value:
        from pseudoseg_tf.cli.plan import self_training_plan

        print(self_training_plan(config, _RUN_DIR.value, _THRESHOLD.value))
        return
    from pseudoseg_tf.self_training import self_train

    results = self_train(config, _RUN_DIR.value, _THRESHOLD.value, preset=_PRESET.value or "")
    for name, result in results.items():
        last, best = (100 * result[which]["miou"] for which in ("last", "best"))
        print(f"{name}: validation mIoU {last:.2f}, best {best:.2f}  ECE {100 * result['last']['ece']:.2f}")


def run() -> None:
    """Entry point of pseudoseg-self-train."""
    _app.run(main)


if __name__ == "__main__":
    run()
