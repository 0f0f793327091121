"""Cityscapes with 100, 372 and 744 labeled images (the first draw of French et al.)."""

from pseudoseg_tf.experiments.definition import CITYSCAPES, RESNET_101, Experiment, Row

PAPER: dict[str, dict[str, float | None]] = {
    "supervised": {"1_30": None, "1_8": None, "1_4": None},
    "unlabeled": {"1_30": None, "1_8": None, "1_4": None},
}

EXPERIMENT = Experiment(
    title="Cityscapes by number of labeled images: 100, 372, 744",
    varies=(),
    rows=tuple(
        Row(
            f"{mode}-{split}",
            "cityscapes",
            (*CITYSCAPES, *RESNET_101, f"data.labeled={split}", f"train.mode={mode}"),
            paper,
        )
        for mode, columns in PAPER.items()
        for split, paper in columns.items()
    ),
    sources=("no source at hand gives its numbers, its network, or which table it is; ResNet-101 is ours",),
)
