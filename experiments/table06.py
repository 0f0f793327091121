"""Table 6: PseudoSeg against self-training, a teacher's fixed one-hot pseudo labels (section 4.4)."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

EXPERIMENT = Experiment(
    title="Self-training with pseudo labels made once, at 92 labels",
    varies=(),
    rows=(
        Row("supervised", "voc12", (*VOC_1_16, "train.mode=supervised"), paper=56.03),
        Row("self-training", "voc12", (*VOC_1_16, "train.mode=supervised"), paper=64.20, kind="self_train"),
        Row("pseudoseg", "voc12", VOC_1_16, paper=67.06),
        Row("pseudoseg-image-labels", "voc12", (*VOC_1_16, "train.mode=weakly"), paper=71.22),
    ),
    sources=(AT_92_LABELS,),
)
