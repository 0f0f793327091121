"""Table 8: three draws of 92 labeled images."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC, XCEPTION_65, Experiment, Row

PAPER: dict[str, dict[str, float | None]] = {
    "supervised": {"1_16/1": 56.03, "1_16/2": None, "1_16/3": None},
    "unlabeled": {"1_16/1": 67.06, "1_16/2": None, "1_16/3": None},
}

EXPERIMENT = Experiment(
    title="Three class-balanced draws of 1/16 of VOC's labels",
    varies=(),
    rows=tuple(
        Row(
            f"{mode}-{split}",
            "voc12",
            (*VOC, *XCEPTION_65, f"data.labeled={split}", f"train.mode={mode}"),
            paper,
        )
        for mode, columns in PAPER.items()
        for split, paper in columns.items()
    ),
    sources=(
        "the authors' lists 16_clean_3, 16_clean_14 and 16_clean_20 are its splits 1, 2 and 3 (googleinterns/wss, "
        "data_splits/pascal_voc_seg)",
        AT_92_LABELS,
        "that its network is Xception-65 is our reading",
    ),
)
