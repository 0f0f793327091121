"""Presets for benchmarks on drawn noise: their data are not read."""

from __future__ import annotations

from collections.abc import Sequence

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.presets import preset

# In place of what a preset says of its data, or leaves to be said.
_DATA = (
    "data.source=tfds",
    "data.name=noise",
    "data.labeled=train",
    "data.unlabeled=train",
    "data.val=validation",
)


def noise_preset(name: str, overrides: Sequence[str]) -> Config:
    """The valid configuration of a preset, also of one that wants its data to be named."""
    config = config_io.apply_overrides(preset(name), [*_DATA, *overrides])
    config_io.validate(config)
    return config
