"""Figure 5b: features of the self-attention: the last stage alone, or the last two (the paper's hypercolumn)."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

EXPERIMENT = Experiment(
    title="Features of the self-attention",
    varies=("model.hypercolumn",),
    rows=(
        Row("last-stage", "voc12", (*VOC_1_16, "model.hypercolumn=1"), paper=None),
        Row("hypercolumn", "voc12", (*VOC_1_16, "model.hypercolumn=1,2"), paper=67.06),
    ),
    sources=(
        AT_92_LABELS,
        "no source at hand gives the other number; the letter of the panel is our reading",
    ),
)
