"""All labels of VOC's augmented set, 90000 steps, gamma 0.3: the baseline, and its own images once more without labels.

The paper's further images are COCO's. One run reads one data set so far, so those rows are not stated here.
"""

from pseudoseg_tf.experiments.definition import VOC, XCEPTION_65, Experiment, Row

_HIGH_DATA = (*VOC, *XCEPTION_65, "data.labeled=train_aug", "train.steps=90000", "pseudo.gamma=0.3")

EXPERIMENT = Experiment(
    title="Fully labeled VOC 2012, 90000 steps",
    varies=("pseudo.gamma",),
    rows=(
        Row("supervised", "voc12", (*_HIGH_DATA, "train.mode=supervised"), paper=None),
        Row("unlabeled", "voc12", _HIGH_DATA, paper=None),
    ),
    sources=("no source at hand gives its numbers or which table it is",),
)
