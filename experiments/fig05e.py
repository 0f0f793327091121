"""Figure 5e: strength of the strong view's color jitter; 1 is the reference's, with brightness and others at 0.5."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, ISSUE, VOC_1_16, Experiment, Row

# Strength 1.6 has SimCLR's brightness, contrast and saturation (0.8).
PAPER = {"0": None, "0.5": None, "1": 67.06, "1.6": None}

EXPERIMENT = Experiment(
    title="Strength of the color jitter",
    varies=("data.jitter_strength",),
    rows=tuple(
        Row(f"strength-{strength}", "voc12", (*VOC_1_16, f"data.jitter_strength={strength}"), paper)
        for strength, paper in PAPER.items()
    ),
    sources=(
        f"{ISSUE.format(1)}: Figure 5e is about jitter strength; SimCLR's is slightly worse than 0.5",
        AT_92_LABELS,
        "no source at hand gives the other numbers; the points and the labeled set are ours",
    ),
)
