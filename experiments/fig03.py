"""Figure 3: PseudoSeg on unlabeled images against the supervised baseline; (a) VOC 2012, (b) COCO."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, COCO, ISSUE, VOC, XCEPTION_65, Experiment, Row

PAPER_VOC: dict[str, dict[str, float | None]] = {
    "supervised": {"1_2": None, "1_4": None, "1_8": None, "1_16/1": 56.03},
    "unlabeled": {"1_2": None, "1_4": 73.79, "1_8": None, "1_16/1": 67.06},
}
PAPER_COCO: dict[str, dict[str, float | None]] = {
    "supervised": {"1_32": 42.24, "1_64": 37.8, "1_128": 33.6, "1_256": 27.96, "1_512": 22.94},
    "unlabeled": {"1_32": 43.64, "1_64": 41.75, "1_128": 39.11, "1_256": 37.11, "1_512": 29.78},
}


def _rows(
    name: str, preset: str, dataset: tuple[str, ...], paper: dict[str, dict[str, float | None]]
) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{name}-{mode}-{split}",
            preset,
            (*dataset, *XCEPTION_65, f"data.labeled={split}", f"train.mode={mode}"),
            value,
        )
        for mode, columns in paper.items()
        for split, value in columns.items()
    )


EXPERIMENT = Experiment(
    title="Gain over the supervised baseline by number of labels",
    varies=(),
    rows=(*_rows("voc", "voc12", VOC, PAPER_VOC), *_rows("coco", "coco", COCO, PAPER_COCO)),
    sources=(
        f"{ISSUE.format(13)}: all values of Figure 3b, from an author; DeepLabv3+ with Xception-65; the same, "
        "rounded, in the README of github.com/LiheYoung/UniMatch",
        f"{ISSUE.format(4)}: 73.79 with 1/4 of VOC's labels (Table 5)",
        AT_92_LABELS,
        "that Figure 3a is VOC 2012 with Xception-65 is our reading",
    ),
)
