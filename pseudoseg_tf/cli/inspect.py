"""Shows what a run is made of: the parts of its network, a picture of a batch, how its keys differ from other runs'.

Prints parameters and GFLOP of each part of the network, at the size of a training crop. --batch also draws the
training batch of a step into a file: both views, the pixels that count, the labels. --compare prints the keys that
differ from another run.

Example:
  pseudoseg-inspect --preset=shapes --batch=runs/batch.png
  pseudoseg-inspect --run_dir=runs/shapes --compare=runs/supervised

--preset and --set are those of pseudoseg-train.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory
from pseudoseg_tf.presets import PRESETS, preset

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory that pseudoseg-train wrote.")
_PRESET = flags.DEFINE_string("preset", None, f"In place of a run: one of {', '.join(PRESETS)}.")
_SET = flags.DEFINE_multi_string("set", [], "With --preset, change a key: --set model.backbone=xception_65")
_BATCH = flags.DEFINE_string("batch", None, "Picture of a training batch to write, .png or .jpg.")
_STEP = flags.DEFINE_integer("step", 0, "The step whose batch that is.", lower_bound=0, upper_bound=2**31 - 1)
_COMPARE = flags.DEFINE_multi_string("compare", [], "Another run directory, to name the keys that differ.")


def main(argv: Sequence[str]) -> None:
    """Prints the tables and draws the batch."""
    del argv
    name, config = _chosen()
    others = {run_dir: config_io.load(run_dir) for run_dir in _COMPARE.value}
    out = Path(_BATCH.value) if _BATCH.value else None
    if out is not None:
        if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UserError(f"--batch: found {str(out)!r}, must end in .png, .jpg or .jpeg")
        check_directory(out.parent)

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.batch_picture import batch_picture
    from pseudoseg_tf.data.sources import open_sources
    from pseudoseg_tf.inference import read_info
    from pseudoseg_tf.model_summary import summary_table
    from pseudoseg_tf.nn.model import build_model
    from pseudoseg_tf.visualize import save_image

    # A run knows its classes; its data is opened only where it is shown.
    sources = None if _RUN_DIR.value and out is None else open_sources(config.data, config.train.mode)
    info = sources.info if sources else read_info(os.path.join(_RUN_DIR.value, "dataset.json"))
    model = build_model(info.num_classes, background=info.has_background, **dataclasses.asdict(config.model))
    print(_app.aligned(summary_table(model, *config.data.crop_size)))
    if others:
        rows = config_io.difference_table({name: config, **others})
        print("", _app.aligned(rows) if rows[1:] else "no key differs", sep="\n")
    if out is not None and sources is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_image(out, batch_picture(config, sources, _STEP.value))
        print(f"\nbatch of step {_STEP.value}: {out}")


def _chosen() -> tuple[str, Config]:
    """The configuration to show, and what it is called."""
    if bool(_RUN_DIR.value) == bool(_PRESET.value):
        raise UserError(
            f"--run_dir, --preset: give one of them, a run or one of the presets {', '.join(PRESETS)}"
        )
    if _RUN_DIR.value:
        if _SET.value:
            raise UserError("--set: a run has its keys already; give --preset in place of --run_dir")
        return _RUN_DIR.value, config_io.load(_RUN_DIR.value)
    config = config_io.apply_overrides(preset(_PRESET.value), _SET.value)
    config_io.validate(config)
    return f"preset {_PRESET.value}", config


def run() -> None:
    """Entry point of pseudoseg-inspect."""
    _app.run(main)


if __name__ == "__main__":
    run()
