"""Makes the runs that ``comparison.run_all`` hands it one after the other, so that TensorFlow starts once for all.

No program for users. It reads a list, as JSON, of what each run is: program, run directory, preset, overrides, and the
log file that gets what the program would print.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.presets import preset


def main(argv: Sequence[str]) -> None:
    """Makes the runs; the first that fails ends it, with the line on its mistake in its log."""
    del argv
    import tensorflow as tf

    from pseudoseg_tf._keras import tf_keras

    # Making a graph faster takes longer than the few steps it is for.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    for run in json.load(sys.stdin):
        _print_to(run["log"])
        _make(run)
        # A model and its graphs refer to each other: else they would stay until Python looks for such circles.
        tf_keras.backend.clear_session()
        gc.collect()


def _make(run: Mapping[str, Any]) -> None:
    from pseudoseg_tf.calibration import calibrate
    from pseudoseg_tf.self_training import self_train
    from pseudoseg_tf.train import train

    if run["program"] == "calibrate":
        calibrate(run["run_dir"])
        return
    config = config_io.apply_overrides(preset(run["preset"]), run["overrides"])
    config_io.validate(config)
    if run["program"] == "self_train":
        self_train(config, run["run_dir"], preset=run["preset"])
    else:
        config_io.check_run_dir(run["run_dir"], config)
        train(config, run["run_dir"], preset=run["preset"])


def _print_to(path: str) -> None:
    """From here on, what Python and TensorFlow print goes to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


if __name__ == "__main__":
    _app.run(main)
