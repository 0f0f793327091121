"""Table 3: all 1464 training masks of VOC 2012, image-level labels for the augmented set."""

from pseudoseg_tf.experiments.definition import ISSUE, RESNET_50, VOC, Experiment, Row

EXPERIMENT = Experiment(
    title="VOC 2012, 1464 labeled images, image-level labels for the augmented set",
    varies=(),
    rows=(
        Row("resnet50", "voc12", (*VOC, *RESNET_50, "data.labeled=train", "train.mode=weakly"), paper=None),
    ),
    sources=(
        f"{ISSUE.format(11)}: an author says that the labeled images are the list train",
        "no source at hand gives its number; that it is Table 3, and its network, are our reading",
    ),
)
