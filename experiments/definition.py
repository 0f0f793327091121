"""The terms in which experiments are stated: rows of overrides with the paper's value, and what many rows share."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table or a point of a figure: one run.

    Attributes:
      name: unique in its experiment; without white space or comma. Of a "calibrate" row: the map, as
        ``pseudoseg-calibrate`` names it, with "-" between the words.
      preset: where the configuration starts.
      overrides: "key=value" each, as for ``pseudoseg-train --set``.
      paper: the value that the paper reports, percent; None: not established from a source.
      ours: the same of our runs after the last step, full budget, mean over seeds; None: not run.
      kind: "train"; "self_train": the chain of teacher, pseudo labels and student; "calibrate": the expected
        calibration error of a map of the trained run.
    """

    name: str
    preset: str
    overrides: tuple[str, ...]
    paper: float | None = None
    ours: float | None = None
    kind: Literal["train", "self_train", "calibrate"] = "train"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
      title: what is compared.
      rows: in the order of the table.
      varies: keys that the rows compare besides mode and labels; small budgets leave them as the row says.
      sources: where the place in the paper and its numbers come from, and what is not confirmed.
      metric: of ``Row.paper``.
    """

    title: str
    rows: tuple[Row, ...]
    varies: tuple[str, ...]
    sources: tuple[str, ...]
    metric: str = "mIoU, percent"


# Data sets, with the pool of additional images that the authors' code reads.
VOC = ("data.source=tfds", "data.name=pascal_voc_seg", "data.unlabeled=train_aug", "data.val=val")
COCO = ("data.source=tfds", "data.name=coco_seg", "data.unlabeled=train", "data.val=val")
CITYSCAPES = ("data.source=tfds", "data.name=cityscapes_seg", "data.unlabeled=train", "data.val=val")

# Backbones with their ImageNet weights of DeepLab's model zoo. The zoo's ResNets were trained with this multi-grid.
XCEPTION_65 = ("model.backbone=xception_65", "init.weights=zoo/xception_65/model.ckpt")
_RESNET = ("model.multi_grid=1,2,4", "train.weight_decay=1e-4")
RESNET_50 = ("model.backbone=resnet_v1_50_beta", "init.weights=zoo/resnet_v1_50/model.ckpt", *_RESNET)
RESNET_101 = ("model.backbone=resnet_v1_101_beta", "init.weights=zoo/resnet_v1_101/model.ckpt", *_RESNET)
# What takes their place in a row of another one: all that they set.
_NOT_RESNET = ("model.multi_grid=1,1,1", "train.weight_decay=4e-5")
BACKBONES = {
    "xception_65": (*XCEPTION_65, *_NOT_RESNET),
    "resnet_v1_50_beta": RESNET_50,
    "resnet_v1_101_beta": RESNET_101,
    "mobilenet_v1": ("model.backbone=mobilenet_v1", "init.weights=imagenet", *_NOT_RESNET),
}

# The paper's setting of its ablations: Xception-65, 92 labeled images of VOC (split 1 of 1/16).
VOC_1_16 = (*VOC, *XCEPTION_65, "data.labeled=1_16/1")

# Sources that several files cite.
ISSUE = "github.com/googleinterns/wss/issues/{}"
AT_92_LABELS = (
    "56.03 supervised, 64.20 self-training, 67.06 PseudoSeg and 71.22 with image-level labels, at 92 labels: as cited "
    'from the paper in a public review of pseudo labels ("Mixing CAM-Derived Pseudo Labels with Exact Labels")'
)
