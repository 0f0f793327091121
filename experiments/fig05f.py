"""Figure 5f: the same 92 labels with each backbone, against its own supervised baseline."""

from pseudoseg_tf.experiments.definition import (
    AT_92_LABELS,
    RESNET_50,
    RESNET_101,
    VOC,
    XCEPTION_65,
    Experiment,
    Row,
)

BACKBONES = {"xception65": XCEPTION_65, "resnet50": RESNET_50, "resnet101": RESNET_101}
PAPER: dict[str, dict[str, float | None]] = {
    "supervised": {"xception65": 56.03, "resnet50": None, "resnet101": None},
    "unlabeled": {"xception65": 67.06, "resnet50": None, "resnet101": None},
}

EXPERIMENT = Experiment(
    title="Backbones",
    varies=("model.backbone", "model.multi_grid"),
    rows=tuple(
        Row(
            f"{mode}-{backbone}",
            "voc12",
            (*VOC, *BACKBONES[backbone], "data.labeled=1_16/1", f"train.mode={mode}"),
            value,
        )
        for mode, columns in PAPER.items()
        for backbone, value in columns.items()
    ),
    sources=(
        AT_92_LABELS,
        "no source at hand gives the other numbers; the letter of the panel is our reading",
    ),
)
