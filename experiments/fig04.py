"""Figure 4: additional images with image-level labels, VOC 2012 and COCO."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, COCO, VOC, XCEPTION_65, Experiment, Row

PAPER_VOC = {"train": None, "1_2": None, "1_4": None, "1_8": None, "1_16/1": 71.22}
PAPER_COCO = {"1_32": None, "1_64": None, "1_128": None, "1_256": None, "1_512": None}

EXPERIMENT = Experiment(
    title="Image-level labels for the additional images, by number of pixel labels",
    varies=(),
    rows=tuple(
        Row(
            f"{preset}-{split}",
            preset,
            (*dataset, *XCEPTION_65, f"data.labeled={split}", "train.mode=weakly"),
            value,
        )
        for preset, dataset, paper in (("voc12", VOC, PAPER_VOC), ("coco", COCO, PAPER_COCO))
        for split, value in paper.items()
    ),
    sources=(
        AT_92_LABELS,
        "that this is Figure 4, beside Figure 3 without image-level labels, is our reading",
    ),
)
