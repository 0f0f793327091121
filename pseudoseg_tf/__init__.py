"""Semi-supervised semantic segmentation with well-designed pseudo labels (PseudoSeg) on TensorFlow 2.

Example:
  import pseudoseg_tf as ps
  config = ps.preset("shapes")
  ps.train(config, "runs/shapes")
  ps.evaluate("runs/shapes", checkpoint="best")
  ps.export("runs/shapes", "runs/shapes/model")
  labels = ps.Predictor("runs/shapes/model")("picture.jpg").labels

Importing the package is quick: TensorFlow is loaded at the first use of a name that needs it.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pseudoseg_tf.calibration import calibrate
    from pseudoseg_tf.evaluate import evaluate
    from pseudoseg_tf.export import export
    from pseudoseg_tf.inference import Predictor
    from pseudoseg_tf.nn.model import build_model
    from pseudoseg_tf.presets import preset
    from pseudoseg_tf.pseudo_label import fuse
    from pseudoseg_tf.self_training import self_train
    from pseudoseg_tf.train import train

# Before TensorFlow is imported: its notices about the build say nothing to a user, and without an NVIDIA driver its
# first "error" is that there is none.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/dev/nvidiactl") else "3")
# The Keras of `_keras` shall be TensorFlow's own, also in tf-models-official: else Keras 3 is loaded beside it, which
# takes a second and 100 MB.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Else oneDNN compiles some convolutions anew in every step, up to a twentieth of its time, to spare 20 MB.
os.environ.setdefault("TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE", "false")

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "build_model",
    "calibrate",
    "evaluate",
    "export",
    "fuse",
    "preset",
    "self_train",
    "train",
]

_HOMES = {
    "Predictor": "inference",
    "build_model": "nn.model",
    "calibrate": "calibration",
    "evaluate": "evaluate",
    "export": "export",
    "fuse": "pseudo_label",
    "preset": "presets",
    "self_train": "self_training",
    "train": "train",
}


class _Package(types.ModuleType):
    """Keeps ``train``, ``evaluate`` and ``export`` the functions.

    The import system binds every submodule to its name on the package; without this, ``pseudoseg_tf.train``
    would be the function or the module, depending on what was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
