"""First features from close-ups: the file fits a model, and holds what was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pseudoseg_tf import closeups
from pseudoseg_tf.checkpoint import check_initial_weights, load_initial_weights
from pseudoseg_tf.config_io import apply_overrides
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.presets import preset


def test_learned_features_are_first_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_IMAGES": 32, "_HELD_OUT": 10, "_EPOCHS": 2, "_BATCH": 8}.items():
        monkeypatch.setattr(closeups, name, value)
    config = apply_overrides(preset("shapes"), ["model.width_multiplier=0.125", "init.weights="])
    path = tmp_path / "features.npz"
    accuracy = closeups.learn_features(config, str(path))
    assert 0 <= accuracy <= 1
    assert [each.name for each in tmp_path.iterdir()] == ["features.npz"]

    model = build_model(7, **dataclasses.asdict(config.model), seed=config.train.seed)
    before = [variable.numpy() for variable in model.backbone.trainable_variables]
    line = load_initial_weights(model, str(path))
    count = len(model.backbone.variables)
    assert line.endswith(f": {count} of {count} backbone arrays")
    assert line == check_initial_weights(model, str(path))
    wider = build_model(7, **dataclasses.asdict(config.model) | {"width_multiplier": 0.25})
    with pytest.raises(UserError, match=r"another width \(model\.width_multiplier\)"):
        check_initial_weights(wider, str(path))
    with np.load(path, allow_pickle=False) as arrays:
        learned = arrays["conv1/kernel"]
    np.testing.assert_array_equal(model.backbone.trainable_variables[0], learned)
    for old, variable in zip(before, model.backbone.trainable_variables, strict=True):
        assert np.abs(variable.numpy() - old).max() > 0, variable.name
