"""Share of the decoder in the fusion: 0.5, and 0.3 as the paper has it where labels are many."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

PAPER = {"0.3": None, "0.5": 67.06}

EXPERIMENT = Experiment(
    title="Share of the decoder in the fusion",
    varies=("pseudo.gamma",),
    rows=tuple(
        Row(f"gamma-{gamma}", "voc12", (*VOC_1_16, f"pseudo.gamma={gamma}"), paper)
        for gamma, paper in PAPER.items()
    ),
    sources=(AT_92_LABELS, "no source at hand gives the other number or its place in the paper"),
)
