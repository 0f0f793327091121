"""Benchmarks start from any preset, without its data."""

from __future__ import annotations

import pytest

from benchmarks.noise_preset import noise_preset
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_of_a_preset_all_but_its_data_remains(name: str) -> None:
    found, whole = noise_preset(name, ["train.steps=7"]), preset(name)
    assert found.train.steps == 7 and found.data.images == ""
    assert found.model == whole.model and found.data.crop_size == whole.data.crop_size


def test_what_is_changed_is_checked() -> None:
    with pytest.raises(UserError, match=r"data\.crop_size: found '100,100'"):
        noise_preset("folder", ["data.crop_size=100"])
