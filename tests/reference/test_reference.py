"""The numbers of the authors' code, file by file, and that the comparison passes over nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pseudoseg_tf.errors import UserError
from tests.reference import compare, views

ROOT = Path(__file__).resolve().parents[2]
# Of the files that take half a minute and more, those that always run.
QUICK = ("step_resnet_v1_50_beta_unlabeled.npz",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "file_name" in metafunc.fixturenames:
        directory = metafunc.config.getoption("--shared") / "reference/A"
        # Without the numbers, one test that says so.
        names = compare.file_names(directory) if directory.is_dir() else ["absent"]
        slow = {name for name in names if name.startswith(("step_", "forward_")) and name not in QUICK}
        metafunc.parametrize(
            "file_name",
            [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names],
        )


@pytest.mark.needs_shared
def test_a_file_of_the_reference(shared_dir: Path, file_name: str) -> None:
    rows = list(compare.compare_file(shared_dir / "reference/A", file_name))
    failed = [str(row) for row in rows if not row.passed]
    assert not failed, "\n".join([f"{len(failed)} of {len(rows)} fail:", *failed])
    assert rows or file_name == "augment_meta.json"


@pytest.mark.needs_shared
def test_amounts_of_jitter_are_found_in_the_images(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(shared_dir / "reference/A/augment.npz", allow_pickle=False) as file:
        strong = [name for name in file.files if re.fullmatch(r"pipeline:.*:strong", name)]
        write_views(tmp_path, {name: file[name] for name in ("in:image_u8", "in:label", *strong)})
    monkeypatch.setattr(views, "_AMOUNTS", (0.0, 1.0, 1.0, 0.0))
    rows = [row for row in compare.compare_file(tmp_path, "augment.npz") if row.name in strong]
    assert len(rows) == len(strong) and all(row.passed for row in rows)
    assert any("(0.25, 1.3, 0.7, 0.12: fitted" in row.note for row in rows)


def write_views(directory: Path, arrays: dict[str, np.ndarray], meta: object = None) -> None:
    np.savez(directory / "augment.npz", **arrays)
    (directory / "augment_meta.json").write_text(json.dumps(meta or {}))


def run(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.reference.compare", f"--dir={directory}", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def failed_rows(directory: Path) -> dict[str, str]:
    """Name and note of what fails."""
    rows = [row for name in compare.file_names(directory) for row in compare.compare_file(directory, name)]
    return {row.name: row.note for row in rows if not row.passed}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dir=absent"], "--dir: absent is not a directory"),
        (["--dir="], "--dir: missing; name a directory of reference numbers"),
        (["--files=["], "--files: '[' is not a regular expression (unterminated character set"),
        (["--files=nothing"], "has a name with 'nothing'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "schedule.json").write_text("[]")
    done = run(tmp_path, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --") and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_exit_code_says_whether_all_pass(tmp_path: Path) -> None:
    (tmp_path / "schedule.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("")
    done = run(tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"notes\.txt .* FAIL a file that this comparison does not know", lines[3])
    assert lines[-1] == "0 of 1 quantities pass, 0 of them judged by their float64 value; 0 not compared"
    assert "notes.txt " not in run(tmp_path, "--files=schedule").stdout
    assert run(tmp_path, "--files=schedule").returncode == 0


def test_an_unknown_quantity_fails(tmp_path: Path) -> None:
    image = np.zeros([4, 6, 3], np.uint8)
    names = ("mystery", "scale:1.00:depth", "colour:gamma:2", "pipeline:crop33:xception_65:labelled:image")
    arrays = {"in:image_u8": image, "in:label": image[..., :1], **dict.fromkeys(names, image)}
    write_views(tmp_path, arrays, {"scale 1.00": [[4, 6, 3], [4, 6, 1]], "riddle": 1})
    unknown = "a quantity that this comparison does not know"
    assert failed_rows(tmp_path) == {
        **dict.fromkeys((*names, "riddle"), unknown),
        # The arrays that it is about are absent.
        "scale 1.00": "ours [None, None], theirs [[4, 6, 3], [4, 6, 1]]",
    }


def test_a_wrong_value_fails(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, [4, 6, 3], dtype=np.uint8)
    labels = rng.integers(0, 21, [4, 6, 1], dtype=np.uint8)
    right = {
        "in:image_u8": image,
        "in:label": labels,
        "scale:set": np.arange(0.5, 2.1, 0.25, np.float32),
        "scale:1.00:image": np.float32(image),
        "scale:1.00:label": labels,
        "flip:draw_0.5:label": labels[:, ::-1],
        "colour:brightness:0.0": np.float32(image) / 255,
    }
    write_views(tmp_path, right, {"scale 1.00": [[4, 6, 3], [4, 6, 1]]})
    assert not failed_rows(tmp_path)
    wrong = {
        "scale:set": right["scale:set"] + np.float32(0.01),
        "scale:1.00:image": right["scale:1.00:image"] + np.float32(0.03),
        "scale:1.00:label": (labels + np.eye(4, 6, dtype=np.uint8)[..., None]) % 21,
        "flip:draw_0.5:label": labels,
        "colour:brightness:0.0": right["colour:brightness:0.0"] + np.float32(0.001),
    }
    write_views(tmp_path, right | wrong, {"scale 1.00": [[4, 6, 3], [4, 7, 1]]})
    assert failed_rows(tmp_path).keys() == {*wrong, "scale 1.00"}


def test_a_wrong_shape_or_a_value_that_is_none_fails(tmp_path: Path) -> None:
    image = np.zeros([4, 6, 3], np.uint8)
    inputs = {"in:image_u8": image, "in:label": image[..., :1]}
    transposed = np.zeros([6, 4, 3], np.float32)
    write_views(
        tmp_path, inputs | {"scale:1.00:image": transposed, "flip:draw_0.5:image": transposed * np.nan}
    )
    assert failed_rows(tmp_path).keys() == {"scale:1.00:image", "flip:draw_0.5:image"}
    write_views(tmp_path, inputs | {"scale:1.00:image": np.full([4, 6, 3], np.nan, np.float32)})
    assert failed_rows(tmp_path).keys() == {"scale:1.00:image"}


def test_files_that_belong_together(tmp_path: Path) -> None:
    write_views(tmp_path, {"scale:1.00:image": np.zeros([4, 6, 3], np.float32)})
    with pytest.raises(UserError, match=r"no array 'in:image_u8', from which the others are made"):
        failed_rows(tmp_path)
    (tmp_path / "augment.npz").unlink()
    assert failed_rows(tmp_path) == {"augment_meta.json": "there is no augment.npz that it belongs to"}


def test_the_box_of_a_mirrored_crop(tmp_path: Path) -> None:
    # Cut first and mirrored then; in set A CutOut covers all of the mirrored crops.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 21, [37, 53], dtype=np.uint8)
    valid = np.zeros([129, 129], np.uint8)
    valid[:37, :53] = 1
    valid[80 - 50 :, : 5 + 50] = 0
    expected = np.where(valid > 0, np.pad(labels, [(0, 92), (0, 76)]), 255)
    case = "pipeline:crop129_scale2_order0123_offset0_0_cut80_5_flip0.2:resnet_v1_50:strong_weak"
    arrays = {
        "in:image_u8": rng.integers(0, 256, [37, 53, 3], dtype=np.uint8),
        "in:label": labels[..., np.newaxis],
        f"{case}:label": expected[:, ::-1, np.newaxis],
        f"{case}:valid": valid[:, ::-1, np.newaxis],
    }
    write_views(tmp_path, arrays)
    assert not failed_rows(tmp_path)


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [
        # Opposite sides of the exact value, each within 2e-5 of it.
        (1.5e-5, -1.5e-5, True),
        # The reference misses it, and we not by more than twice as much.
        (7e-5, -4e-5, True),
        (9e-5, -4e-5, False),
        (3e-5, -1e-5, False),
    ],
)
def test_a_row_that_fails_is_judged_by_its_exact_value(ours: float, theirs: float, passed: bool) -> None:
    row = compare.Row("attention_labeled", False)
    judged = compare._against_exact(row, np.array([ours]), np.array([theirs]), np.array([0.0]))
    assert judged.passed == judged.rounding == passed
    assert compare._against_exact(row, np.array([ours]), np.array([theirs]), None) == row
