"""CutOut of the strong view: none, the 50x50 of the paper's text, the up to 100x100 of the authors' code."""

from pseudoseg_tf.experiments.definition import AT_92_LABELS, VOC_1_16, Experiment, Row

PAPER = {"0": None, "25": None, "50": 67.06}

EXPERIMENT = Experiment(
    title="CutOut, half its side in pixels",
    varies=("data.cutout",),
    rows=tuple(
        Row(f"half-side-{pixels}", "voc12", (*VOC_1_16, f"data.cutout={pixels}"), paper)
        for pixels, paper in PAPER.items()
    ),
    sources=(AT_92_LABELS, "no source at hand gives the other numbers or their place in the paper"),
)
