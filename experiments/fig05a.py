"""Figure 5a: the calibration error of each map that could serve as pseudo label, in one trained run."""

from pseudoseg_tf.experiments.definition import VOC_1_16, Experiment, Row

MAPS = ("decoder", "SGC", "fusion-without-Norm", "fusion", "fusion-sharpened", "fusion-hard")

EXPERIMENT = Experiment(
    title="Calibration of decoder, SGC and their fusion",
    varies=(),
    rows=tuple(Row(name, "voc12", VOC_1_16, paper=None, kind="calibrate") for name in MAPS),
    sources=("no source at hand gives its numbers, its bars or its labeled set; maps and 1/16 are ours",),
    metric="expected calibration error, percent",
)
