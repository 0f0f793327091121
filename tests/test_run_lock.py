"""Two runs in one directory."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from pseudoseg_tf.errors import UserError
from pseudoseg_tf.run_lock import claimed

ROOT = Path(__file__).resolve().parents[1]
HOLDER = """
import sys
from pseudoseg_tf.run_lock import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(run_dir)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
        message = (
            f"{run_dir}: process {holder.pid} on {socket.gethostname()} is training in it; wait for it, stop it, or "
            "take another run directory"
        )
        with pytest.raises(UserError) as error, claimed(str(run_dir)):
            pass
        assert str(error.value) == message
        holder.kill()
    with claimed(str(run_dir)):
        assert (run_dir / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_used_directory_stays_and_an_unused_one_goes(tmp_path: Path) -> None:
    with claimed(str(tmp_path / "unused")):
        pass
    assert not (tmp_path / "unused").exists()
    with claimed(str(tmp_path / "used")):
        (tmp_path / "used/config.json").write_text("{}")
    assert sorted(os.listdir(tmp_path / "used")) == ["config.json", "lock"]
    with pytest.raises(ValueError), claimed(str(tmp_path / "failed")):
        raise ValueError
    assert not (tmp_path / "failed").exists()


def test_a_link_to_a_directory_does_not_hide_the_mistake(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(ValueError, match="the mistake"), claimed(str(tmp_path / "link")):
        raise ValueError("the mistake")
    assert (tmp_path / "link").is_dir()


def test_a_lock_file_that_was_removed_meanwhile_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking the file, whoever had it left an unused directory."""
    run_dir = tmp_path / "run"
    lock = fcntl.flock
    calls = []

    def late(file: TextIO, how: int) -> None:
        if not calls:
            (run_dir / "lock").unlink()
        calls.append(file)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(str(run_dir)):
        assert len(calls) == 2 and calls[0].closed
        assert os.path.samestat(os.fstat(calls[1].fileno()), os.stat(run_dir / "lock"))


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(UserError, match=r"run: cannot be written \(File exists\)"),
        claimed(str(tmp_path / "run")),
    ):
        pass
