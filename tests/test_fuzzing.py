"""Some hundred mutated inputs for each reader; ``make fuzz`` runs millions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.errors import UserError
from tests.fuzzing import TARGETS, Target, fuzz


def test_a_key_of_two_lines() -> None:
    """Found by fuzzing."""
    with pytest.raises(UserError, match=r"^0 0: a key is GROUP.NAME; nearest: \S+$"):
        config_io.apply_overrides(Config(), ["0\n0="])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_user_errors(target: Target, tmp_path: Path) -> None:
    assert fuzz(target, tmp_path, 200) >= 200
