"""Figure 5d: how sharp the pseudo label should be."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

PAPER = {"0.1": None, "0.3": None, "0.5": 67.06, "0.7": None, "1.0": None}

EXPERIMENT = Experiment(
    title="Temperature of the sharpening",
    varies=("pseudo.temperature",),
    rows=tuple(
        Row(f"T-{temperature}", "voc12", (*VOC_1_16, f"pseudo.temperature={temperature}"), paper)
        for temperature, paper in PAPER.items()
    ),
    sources=(AT_92_LABELS, "no source at hand gives the other numbers"),
)
