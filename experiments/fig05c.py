"""Figure 5c: soft pseudo labels against one-hot ones, all or the confident."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

EXPERIMENT = Experiment(
    title="Soft and hard pseudo labels",
    varies=("pseudo.soft", "pseudo.threshold"),
    rows=(
        Row("soft", "voc12", VOC_1_16, paper=67.06),
        Row("hard", "voc12", (*VOC_1_16, "pseudo.soft=false"), paper=None),
        Row("hard-0.5", "voc12", (*VOC_1_16, "pseudo.soft=false", "pseudo.threshold=0.5"), paper=None),
        Row("hard-0.8", "voc12", (*VOC_1_16, "pseudo.soft=false", "pseudo.threshold=0.8"), paper=None),
    ),
    sources=(
        AT_92_LABELS,
        "no source at hand gives the other numbers; that the figure is at 1/16 is our reading",
    ),
)
