"""Table 2: few of VOC's training masks, the augmented set as unlabeled images."""

from pseudoseg_tf.experiments.definition import ISSUE, RESNET_101, VOC, Experiment, Row

PAPER = {"1_2": 72.41, "1_4": 69.14, "1_8": 65.50, "1_16/1": 57.60}

EXPERIMENT = Experiment(
    title="VOC 2012 by number of labeled images: 732, 366, 183, 92",
    varies=(),
    rows=tuple(
        Row(split, "voc12", (*VOC, *RESNET_101, f"data.labeled={split}"), paper)
        for split, paper in PAPER.items()
    ),
    sources=(
        f"{ISSUE.format(2)}: labeled sets down to 92 images, all of the augmented set unlabeled",
        f"{ISSUE.format(3)}: an author says that its 92 are 16_clean_3, our 1_16/1",
        "72.41, 69.14, 65.50 and 57.60, ResNet-101: as U2PL (Wang et al., CVPR 2022, Table 1) and others cite them, "
        "from memory",
    ),
)
