r"""Trains a model. Killed at any moment, the same command continues the run where its last checkpoint stands.

Example:
  pseudoseg-train --preset=shapes --run_dir=runs/shapes
  pseudoseg-train --preset=shapes --run_dir=runs/supervised --set train.mode=supervised --set train.steps=300
  pseudoseg-train --preset=folder --run_dir=runs/mine --dry_run \
    --set data.images=my/images --set data.masks=my/masks --set data.classes=my/classes.txt \
    --set data.labeled=my/labeled.txt --set data.unlabeled=my/unlabeled.txt --set data.val=my/val.txt

Presets are described in pseudoseg_tf/presets.py, keys in pseudoseg_tf/config.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.interruption import StopSignals
from pseudoseg_tf.presets import PRESETS, preset

_PRESET = flags.DEFINE_string(
    "preset", None, f"Experiment to start from: {', '.join(PRESETS)}. Not needed to continue a run."
)
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run: checkpoints, scores, pictures.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key: --set train.steps=2000")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check everything, print the plan and its cost; no training.")
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "The same bits in each run, a little slower; runtime.deterministic=true."
)
_TERAFLOPS = flags.DEFINE_float(
    "teraflops",
    None,
    "For --dry_run: what all devices sustain together, to give the hours.",
    lower_bound=1e-6,
)


def main(argv: Sequence[str]) -> None:
    """Resolves the configuration, then prints its plan or trains."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir: missing; name the directory of the run, such as runs/first")
    reference = None
    if _PRESET.value:
        config = reference = preset(_PRESET.value)
    elif (Path(_RUN_DIR.value) / "config.json").is_file():
        config = config_io.load(_RUN_DIR.value)
    else:
        raise UserError(f"--preset: missing, no run in {_RUN_DIR.value}; presets: {', '.join(PRESETS)}")
    deterministic = ["runtime.deterministic=true"] if _DETERMINISTIC.value else []
    config = config_io.apply_overrides(config, [*_SET.value, *deterministic])
    config_io.validate(config)
    continues = config_io.check_run_dir(_RUN_DIR.value, config)

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    if _DRY_RUN.value:
        from pseudoseg_tf.cli.plan import plan

        print(plan(config, _RUN_DIR.value, continues, reference=reference, teraflops=_TERAFLOPS.value))
    else:
        # From here on, so that a signal during the import ends in good order, too.
        with StopSignals() as signals, signals.at_once():
            from pseudoseg_tf.train import train

        train(config, _RUN_DIR.value, preset=_PRESET.value or "")


def run() -> None:
    """Entry point of pseudoseg-train."""
    _app.run(main)


if __name__ == "__main__":
    run()
