"""Takes TensorFlow 1 checkpoints in and writes them: DeepLab's model zoo, and runs of the authors' code.

Examples:
  What a checkpoint holds, and what of it a model would take:
    pseudoseg-convert --inspect --checkpoint=zoo/xception_65/model.ckpt
  A trained checkpoint of the authors' code, with optimizer and step -> a run directory, to evaluate, export
  (both with --checkpoint=last) or continue (pseudoseg-train --run_dir=runs/theirs):
    pseudoseg-convert --from=theirs/model.ckpt-30000 --run_dir=runs/theirs --preset=voc12 \\
      --set model.backbone=xception_65 --set data.classes=voc/classes.txt ...
  A run -> a TensorFlow 1 checkpoint, with optimizer and step:
    pseudoseg-convert --to=ours/model.ckpt-30000 --run_dir=runs/ours

A checkpoint is given by its prefix (without .index), or by its directory. As first weights of a run it needs
no conversion: pseudoseg-train --set init.weights=zoo/xception_65/model.ckpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args, get_type_hints

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import ModelConfig
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.presets import PRESETS, preset

_BACKBONES = get_args(get_type_hints(ModelConfig)["backbone"])

_INSPECT = flags.DEFINE_bool("inspect", False, "Print a table of the variables of --checkpoint.")
_FROM = flags.DEFINE_string("from", None, "TensorFlow 1 checkpoint to make the run directory --run_dir of.")
_TO = flags.DEFINE_string("to", None, "Prefix of the TensorFlow 1 checkpoint to write of --run_dir.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "With --inspect: a TensorFlow 1 checkpoint. With --to: last, best, or the path of a checkpoint of the run. "
    "Absent: last.",
)
_BACKBONE = flags.DEFINE_string(
    "backbone", None, f"With --inspect: {', '.join(_BACKBONES)}. Absent: as the names tell."
)
_CLASSES = flags.DEFINE_integer(
    "classes",
    None,
    "With --inspect: number of classes, background included. Absent: as the shapes tell, else 21.",
)
_RUN_DIR = flags.DEFINE_string(
    "run_dir",
    None,
    "With --from: directory to write, absent or empty. With --to: directory that pseudoseg-train wrote.",
)
_PRESET = flags.DEFINE_string(
    "preset", None, f"With --from: experiment of the run: {', '.join(PRESETS)}, as for pseudoseg-train."
)
_SET = flags.DEFINE_multi_string("set", [], "With --from: change a key, as for pseudoseg-train.")

_NEEDED = {
    "inspect": {"checkpoint": "name a TensorFlow 1 checkpoint"},
    "from": {
        "run_dir": "name the directory to write, such as runs/converted",
        "preset": f"the experiment of the run; presets: {', '.join(PRESETS)}",
    },
    "to": {"run_dir": "name the directory that pseudoseg-train wrote"},
}
_OPTIONAL = {"inspect": ("backbone", "classes"), "from": ("set",), "to": ("checkpoint",)}


def main(argv: Sequence[str]) -> None:
    """Does one of the three and says what was done."""
    del argv
    use = _use()
    if use == "from":
        # The weights are those of the checkpoint, whatever the preset begins with.
        config = config_io.apply_overrides(
            preset(_PRESET.value), ["init.weights=", "init.last_layers=false", *_SET.value]
        )
        config_io.validate(config)
    if _BACKBONE.value is not None and _BACKBONE.value not in _BACKBONES:
        raise UserError(f"--backbone: found {_BACKBONE.value!r}, must be one of {', '.join(_BACKBONES)}")
    if _CLASSES.value is not None and not 2 <= _CLASSES.value <= 256:
        raise UserError(f"--classes: found {_CLASSES.value}, must be from 2 to 256")

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf import convert

    if use == "inspect":
        print(convert.inspect_tf1(_CHECKPOINT.value, _BACKBONE.value, _CLASSES.value))
    elif use == "from":
        summary = convert.from_tf1(_FROM.value, _RUN_DIR.value, config, _PRESET.value)
        print(f"{_RUN_DIR.value}: run of {summary}")
        values = config_io.flatten(config)
        unseen = ("model.output_stride", "model.atrous_rates", "model.multi_grid")
        settings = ", ".join(f"{key}={config_io.as_text(values[key])}" for key in unseen)
        print(f"not in the checkpoint, so they must be those it was trained with: {settings}")
    else:
        path = convert.to_tf1(_RUN_DIR.value, _TO.value, _CHECKPOINT.value or "last")
        print(f"{_TO.value}: TensorFlow 1 checkpoint of {path}")


def _use() -> str:
    """The one of --inspect, --from and --to that is given, with what belongs to it and nothing else."""
    given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
    uses = [name for name in _NEEDED if flags.FLAGS[name].value]
    if len(uses) != 1:
        found = " and ".join(f"--{name}" for name in uses) or "none of them"
        raise UserError(f"found {found}; give one of --inspect, --from and --to (--help shows examples)")
    use = uses[0]
    for name, what in _NEEDED[use].items():
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name}: missing; {what}")
    for name in ("checkpoint", "backbone", "classes", "run_dir", "preset", "set"):
        if name in given and name not in _NEEDED[use] and name not in _OPTIONAL[use]:
            raise UserError(f"--{name}: has no meaning with --{use}; leave it out")
    return use


def run() -> None:
    """Entry point of pseudoseg-convert."""
    _app.run(main)


if __name__ == "__main__":
    run()
