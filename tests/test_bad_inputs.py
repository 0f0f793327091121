"""Bad and odd inputs through the real entry points: each works or gives its one line, soon and within 2 GiB."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pseudoseg_tf import files
from pseudoseg_tf.errors import UserError
from tests.bad_inputs import CASES, Case

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each case, by name; all in one process, whose memory is limited."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bad_inputs", str(tmp_path_factory.mktemp("bad"))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_there_are_many() -> None:
    assert len(CASES) == len({case.name for case in CASES}) == 159


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outcome(case: Case, outcomes: dict[str, dict[str, Any]]) -> None:
    found = outcomes[case.name]["outcome"]
    assert re.fullmatch(case.outcome, found), found


def test_memory(outcomes: dict[str, dict[str, Any]]) -> None:
    assert 0 < max(row["peak_mb"] for row in outcomes.values()) < 1500


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"1")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=rf"^{path}: cannot be read \(Permission denied\)$"):
        files.read_bytes(path, 10)


def test_name_that_no_file_can_have() -> None:
    with pytest.raises(UserError, match=r"^'a\\x00b': no name of a file \(embedded null byte\)$"):
        files.read_bytes("a\0b", 10)


@pytest.mark.parametrize("size", [10, 11])
def test_largest_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    if size == 10:
        assert files.read_bytes(path, 10) == bytes(10)
    else:
        with pytest.raises(UserError, match=rf"^{path}: more than 0 MiB, too large for a file of its kind$"):
            files.read_bytes(path, 10)


def test_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of /proc say that they are empty."""
    path = tmp_path / "file"
    path.write_bytes(bytes(11))
    empty = tmp_path / "empty"
    empty.touch()
    status = os.stat(empty)
    monkeypatch.setattr(os, "stat", lambda _: status)
    with pytest.raises(UserError, match=r"too large"):
        files.read_bytes(path, 10)
