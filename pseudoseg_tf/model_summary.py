"""The parts of a network: how many parameters each has, and what a pass through it costs."""

from __future__ import annotations

from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.nn.pass_cost import count_parts


def summary_table(model: PseudoSegModel, height: int, width: int) -> list[list[str]]:
    """Rows of text, a header first: parameters, trained ones and GFLOP of a pass of one image of that size.

    A multiplication with addition is two operations; elementwise operations are not counted. The last row is the
    network that predicts: backbone, ASPP and decoder.
    """
    parts = {
        "backbone": model.backbone,
        "ASPP": model.head.aspp,
        "decoder": model.head.decoder,
        "image classifier": model.classifier,
        "self-attention (SGC)": model.sgc_attention,
    }
    rows = [["part", "parameters", "trained", f"GFLOP at {height}x{width}"]]
    predicting = [0, 0, 0]
    for name, cost in count_parts(model, height, width).items():
        layer = parts.get(name)
        every, trained = (layer.variables, layer.trainable_variables) if layer is not None else ([], [])
        counts = [
            *(sum(variable.shape.num_elements() for variable in some) for some in (every, trained)),
            2 * cost.multiply_accumulates,
        ]
        if name in ("backbone", "ASPP", "decoder"):
            predicting = [total + count for total, count in zip(predicting, counts, strict=True)]
        rows.append(_row(name, counts))
    return [*rows, _row("prediction", predicting)]


def _row(name: str, counts: list[int]) -> list[str]:
    parameters, trained, operations = counts
    return [name, f"{parameters:,}", f"{trained:,}", f"{operations / 1e9:.3f}"]
