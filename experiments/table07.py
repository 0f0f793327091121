"""Table 7: all labels of VOC's augmented set, 90000 steps, gamma 0.3, COCO's images with image-level labels or none."""

from pseudoseg_tf.experiments.definition import VOC, XCEPTION_65, Experiment, Row

_HIGH_DATA = (*VOC, *XCEPTION_65, "data.labeled=train_aug", "train.steps=90000", "pseudo.gamma=0.3")
# Every image of COCO's train with the classes of VOC, whose masks only name the classes in it.
_COCO = (*_HIGH_DATA, "data.unlabeled_name=coco_seg/coco2voc", "data.unlabeled=train")

EXPERIMENT = Experiment(
    title="Fully labeled VOC 2012 and more images, 90000 steps",
    varies=("pseudo.gamma",),
    rows=(
        Row("supervised", "voc12", (*_HIGH_DATA, "train.mode=supervised"), paper=None),
        Row("unlabeled-voc", "voc12", _HIGH_DATA, paper=None),
        Row("unlabeled-coco", "voc12", _COCO, paper=None),
        Row("weakly-coco", "voc12", (*_COCO, "train.mode=weakly"), paper=None),
    ),
    sources=("no source at hand gives its numbers; that it is Table 7 is our reading",),
)
