"""Some hundred mutated inputs for each reader; ``make fuzz`` runs millions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing import TARGETS, Target, fuzz


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_user_errors(target: Target, tmp_path: Path) -> None:
    assert fuzz(target, tmp_path, 200) >= 200
