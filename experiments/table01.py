"""Table 1: all 1464 training masks of VOC 2012, the augmented set as unlabeled images."""

from pseudoseg_tf.experiments.definition import ISSUE, RESNET_50, RESNET_101, VOC, Experiment, Row

EXPERIMENT = Experiment(
    title="VOC 2012, 1464 labeled images, the augmented set unlabeled",
    varies=("model.backbone", "model.multi_grid"),
    rows=(
        Row("resnet50", "voc12", (*VOC, *RESNET_50, "data.labeled=train"), paper=None),
        Row("resnet101", "voc12", (*VOC, *RESNET_101, "data.labeled=train"), paper=73.23),
    ),
    sources=(
        f"{ISSUE.format(4)}: 73.23 in Table 1 with 1.4k labels, a ResNet, scored at a single scale; "
        "that it is the deeper of the two is our reading",
        f"{ISSUE.format(11)}: an author says that its labeled images are the list train",
    ),
)
