"""Table 5: pseudo labels of the decoder alone, of self-attention Grad-CAM alone, and of their calibrated fusion."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, ISSUE, VOC, XCEPTION_65, Experiment, Row

PAPER: dict[tuple[str, str], dict[str, float | None]] = {
    ("decoder", "unlabeled"): {"1_4": None, "1_16/1": None},
    ("sgc", "unlabeled"): {"1_4": None, "1_16/1": None},
    ("fused", "unlabeled"): {"1_4": 73.79, "1_16/1": 67.06},
    ("decoder", "weakly"): {"1_4": None, "1_16/1": None},
    ("sgc", "weakly"): {"1_4": None, "1_16/1": None},
    ("fused", "weakly"): {"1_4": None, "1_16/1": 71.22},
}

EXPERIMENT = Experiment(
    title="Sources of the pseudo label, without and with image-level labels",
    varies=("pseudo.source",),
    rows=tuple(
        Row(
            f"{source}-{split}" if mode == "unlabeled" else f"{source}-{mode}-{split}",
            "voc12",
            (*VOC, *XCEPTION_65, f"data.labeled={split}", f"train.mode={mode}", f"pseudo.source={source}"),
            paper,
        )
        for (source, mode), columns in PAPER.items()
        for split, paper in columns.items()
    ),
    sources=(
        f"{ISSUE.format(4)}: Table 5 compares pseudo-label strategies, Xception-65, 73.79 with 1/4 of the labels",
        AT_92_LABELS,
    ),
)
