"""Table 2: few of VOC's training masks, the augmented set as unlabeled images."""

from pseudoseg_tf.experiments.definition import ISSUE, RESNET_101, VOC, Experiment, Row

SPLITS = ("1_2", "1_4", "1_8", "1_16/1")

EXPERIMENT = Experiment(
    title="VOC 2012 by number of labeled images: 732, 366, 183, 92",
    varies=(),
    rows=tuple(
        Row(split, "voc12", (*VOC, *RESNET_101, f"data.labeled={split}"), paper=None) for split in SPLITS
    ),
    sources=(
        f"{ISSUE.format(2)}: labeled sets down to 92 images, all of the augmented set unlabeled",
        f"{ISSUE.format(3)}: an author says that its 92 are 16_clean_3, our 1_16/1",
        "no source at hand gives its numbers; that its network is ResNet-101 is our reading",
    ),
)
