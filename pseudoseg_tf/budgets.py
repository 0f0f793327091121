"""What a row of an experiment becomes under a budget: the paper's run, an ablation on a CPU, or a proof that it trains.

A budget changes size, data and schedule, never the keys that its experiment varies, so the rows differ as they do in
the paper. Rows whose configurations end up equal are one run, made once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pseudoseg_tf.comparison import Run
from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import apply_overrides, flatten, parse_overrides, validate
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.experiments.definition import BACKBONES, Experiment, Row
from pseudoseg_tf.folder_comparison import FEW_STEPS, draw_lists, folder_overrides, schedule
from pseudoseg_tf.presets import preset

# Where rows expect the first weights of the paper's backbones.
_ZOO = "zoo/"
# What the small budgets do to every network; a backbone that is compared keeps its own width and grid.
_SMALL_BACKBONE = ("model.backbone=mobilenet_v1", "model.multi_grid=1,1,1")
_QUARTER_WIDTH = "model.width_multiplier=0.25"
_SMOKE = (
    "init.weights=",
    "model.atrous_rates=1,1,2",
    "model.aspp_channels=16",
    "model.decoder_channels=16",
    "model.attention_dim=16",
    "data.source=tfds",
    "data.name=shapes_seg",
    "data.unlabeled_name=",
    "data.labeled=train[:4]",
    "data.unlabeled=train[4:12]",
    "data.val=val[:2]",
    "data.crop_size=33",
    "data.eval_size=97",
    "data.batch_labeled=2",
    "data.batch_unlabeled=2",
    "data.cutout=8",
    "train.steps=2",
    "train.checkpoint_every=2",
    "train.evaluate_every=2",
    "train.pictures_every=2",
    "train.log_every=1",
)
_DEFAULTS = flatten(Config())
# A published split: 1_16/2 is the second draw of a sixteenth.
_SPLIT = re.compile(r"1_(?P<part>\d+)(?:/(?P<draw>\d+))?")


def full(row: Row, zoo: str = _ZOO, accumulate: int = 1, backbone: str = "") -> tuple[str, ...]:
    """The paper's run.

    Args:
        zoo: directory of DeepLab's model zoo, ``xception_65/model.ckpt`` and so on below it.
        accumulate: parts that its batches are taken in, where the devices do not hold them at once.
        backbone: takes the place of the row's, with its first weights, multi-grid and weight decay; empty: the row's.
    """
    overrides = (*row.overrides, *BACKBONES.get(backbone, ()))
    if accumulate > 1:
        overrides = (*overrides, f"train.accumulate={accumulate}")
    first = f"init.weights={_ZOO}"
    found = f"init.weights={Path(zoo)}/"
    return tuple(
        found + override.removeprefix(first) if override.startswith(first) else override
        for override in overrides
    )


def smoke(row: Row, experiment: Experiment, backbone: str = "") -> tuple[str, ...]:
    """Two steps of a tiny network on drawn scenes.

    Args:
        backbone: will take the place of MobileNetV1, which alone has a width; empty: none will.
    """
    whole = "model.backbone" in experiment.varies or backbone not in ("", "mobilenet_v1")
    width = () if whole else (_QUARTER_WIDTH,)
    return _changed(row, (*_SMALL_BACKBONE, *width, *_SMOKE), experiment)


def on_cpu(
    row: Row, experiment: Experiment, data: Path, lists: Path, weights: str, steps: int, evaluations: int
) -> tuple[str, ...]:
    """A few hundred steps of a small network on a folder of real images (``folder_comparison``).

    As much of the training list is labeled as the row's split is of its data set, whichever that is.

    Args:
        data: the folder.
        lists: receives a directory of list files for each split.
        weights: of the network, as ``init.weights``; where the experiment compares backbones, all start at random.

    Raises:
        TooFewImagesError: the folder is too small for the row's split.
        UserError: the folder cannot be read.
    """
    at = _lists(data, lists, parse_overrides(row.overrides)["data.labeled"])
    first = "" if "model.backbone" in experiment.varies else weights
    changes = (
        *_SMALL_BACKBONE,
        *FEW_STEPS,
        "data.source=folder",
        "data.name=",
        "data.unlabeled_name=",
        "data.eval_size=0",
        *folder_overrides(data, at, first),
        *schedule(steps, evaluations),
    )
    return _changed(row, changes, experiment)


def check_changes(changes: Iterable[str], name: str, experiment: Experiment) -> None:
    """Raises UserError for a change of a key that sets rows or their repetitions apart: it would make them one."""
    for key in parse_overrides(changes):
        if key in ("data.seed", "train.seed"):
            raise UserError(
                f"--set {key}: rows of {name} are repeated by it; name the seeds with --seeds instead"
            )
        if key in ("train.mode", "data.labeled", *experiment.varies):
            raise UserError(
                f"--set {key}: rows of {name} are compared by it; choose rows with --only instead"
            )


def configuration(row: Row, overrides: Iterable[str]) -> Config:
    """The whole configuration, checked."""
    config = apply_overrides(preset(row.preset), list(overrides))
    validate(config)
    return config


def run_of(row: Row, overrides: tuple[str, ...], seed: int) -> Run:
    """The training run, or chain; equal ones have one name, so that they share a directory."""
    program: Literal["train", "self_train"] = "self_train" if row.kind == "self_train" else "train"
    config = configuration(row, overrides)
    # Of what is not the default: a key that a later version adds leaves the names as they are.
    chosen = {key: value for key, value in flatten(config).items() if value != _DEFAULTS[key]}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    labels = Path(config.data.labeled).parent.name if config.data.source == "folder" else config.data.labeled
    made = program if program == "self_train" else config.train.mode
    readable = re.sub(r"[^\w.]+", "-", f"{made}-{labels}").strip("-")
    return Run(f"{readable}-{digest}", seed, row.preset, overrides, program)


def _changed(row: Row, changes: Iterable[str], experiment: Experiment) -> tuple[str, ...]:
    """The row's overrides and, over them, the changes of the keys that the experiment does not vary."""
    kept = {key: value for key, value in parse_overrides(changes).items() if key not in experiment.varies}
    values = parse_overrides(row.overrides) | kept
    return tuple(f"{key}={value}" for key, value in values.items())


@functools.cache
def _lists(data: Path, lists: Path, labeled: str) -> Path:
    """Draws the lists of a split; returns the directory that has them."""
    split = _SPLIT.fullmatch(labeled)
    part, draw = (int(split["part"]), int(split["draw"] or 1)) if split else (1, 1)
    directory = lists / labeled.replace("/", "-")
    draw_lists(data, directory, part, seed=draw - 1)
    return directory
