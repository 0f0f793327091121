"""Whether training crops are as wide as ASPP looks: weights that meet nothing but padding do not learn."""

from __future__ import annotations

from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import as_text

# DeepLab's own proportion: rates up to 18 for crops of 513, which are 33 cells wide.
_LARGEST_RATE, _CELLS = 18, 33


def reach_notes(config: Config) -> list[str]:
    """Says which branches of ASPP reach beyond the training crops, and which rates would not; nothing if none does.

    In a crop no wider than a branch's rate, the branch sees its own cell and, with its other weights, padding. Larger
    images, in evaluation or later, meet these weights as they were initialized.
    """
    # Rates are given as for output stride 16.
    rates, cells = config.model.atrous_rates, (min(config.data.crop_size) - 1) // 16 + 1
    beyond = [rate for rate in rates if rate >= cells]
    if not beyond:
        return []
    largest = cells * _LARGEST_RATE / _CELLS
    fitting = tuple(max(1, round(rate * largest / max(rates))) for rate in rates)
    height, width = config.data.crop_size
    return [
        f"model.atrous_rates={as_text(rates)}: crops of {height}x{width} pixels are too small for the rate"
        f"{'s' if len(beyond) > 1 else ''} {as_text(tuple(beyond))}, most of whose weights would meet padding alone, "
        f"learn nothing and disturb on larger images: choose model.atrous_rates={as_text(fitting)}, or larger crops"
    ]
