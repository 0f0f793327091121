"""pseudoseg-check-data as a user meets it: tables, findings, exit codes, mistakes of the flags."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pseudoseg_tf.data.specs import voc_palette
from tests.folder import draw_folder

ROOT = Path(__file__).resolve().parents[1]


def run_check(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "pseudoseg_tf.cli.check_data", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_folder(tmp_path / "data")
    return tmp_path / "data"


def flags_for(root: Path) -> list[str]:
    keys = {key: root / key for key in ("images", "masks")}
    keys |= {key: root / f"{key}.txt" for key in ("classes", "labeled", "unlabeled", "val")}
    small = ["data.crop_size=33", "data.batch_labeled=2", "data.batch_unlabeled=2"]
    return ["--preset=folder", *(f"--set=data.{key}={path}" for key, path in keys.items())] + [
        f"--set={override}" for override in small
    ]


def test_help_shows_examples_and_flags() -> None:
    done = run_check("--help")
    assert done.returncode == 0 and done.stderr == ""
    for part in (
        "pseudoseg-check-data --preset=folder",
        "\n  --preset\n",
        "\n  --set\n",
        "\n  --out\n",
        "exit code",
    ):
        assert part in done.stdout


def test_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"d\xff")
    draw_folder(root)
    path = root / "images/3.png"
    path.write_bytes(path.read_bytes()[:-100])
    done = run_check(*flags_for(root), f"--out={root}/page")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: image 3 (data.unlabeled): damaged (" in done.stdout
    assert f"page: {tmp_path}/d\\udcff/page/index.html" in done.stdout
    assert "Check of d\\udcff" in (root / "page/index.html").read_text()


def test_good_data(root: Path) -> None:
    before = sorted(root.rglob("*"))
    done = run_check(*flags_for(root))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["list", "images", "masks", "height"]
    assert lines[1].split("  ")[0] == "data.labeled"
    assert any(line.split()[:2] == ["255", "(ignored)"] for line in lines)
    assert lines[-1] == "0 errors, 0 warnings, 0 notes"
    assert sorted(root.rglob("*")) == before


def test_bad_data_and_the_page(root: Path, tmp_path: Path) -> None:
    (root / "val.txt").write_text("6\n7\n1\n")
    (root / "unlabeled.txt").write_text("3\n2\n")
    with Image.open(root / "masks/0.png") as mask:
        mask.putpalette([value for color in voc_palette(256) for value in color])
        mask.convert("RGB").save(root / "masks/0.png")
    done = run_check(*flags_for(root), f"--out={tmp_path / 'page'}")
    assert done.returncode == 2
    assert done.stderr == "error: 2 errors, 0 warnings, 1 note, see above; mend the errors before training\n"
    findings = [line for line in done.stdout.splitlines() if line.startswith(("error", "warning", "note"))]
    assert [line.split(":")[0] for line in findings] == ["error", "error", "note"]
    assert findings[0].startswith("error: data.labeled and data.val share 1 id ('1')")
    assert findings[1].startswith("error: mask 0 (data.labeled): stored as a color picture;")
    assert f"page: {tmp_path / 'page/index.html'}\n" in done.stdout
    page = (tmp_path / "page/index.html").read_text()
    assert "stored as a color picture" in page


@pytest.mark.slow
def test_the_check_finds_what_training_refuses(root: Path) -> None:
    """pseudoseg-train applies the same rules to what is cheap to see; its line is one of the check's."""
    (root / "val.txt").write_text("6\n7\n1\n")
    flags = flags_for(root)
    train = [sys.executable, "-m", "pseudoseg_tf.cli.train", f"--run_dir={root / 'run'}", *flags]
    trained = subprocess.run(train, cwd=ROOT, capture_output=True, text=True)
    assert trained.returncode == 2 and not (root / "run").exists()
    assert trained.stderr.splitlines()[-1] in run_check(*flags).stdout.splitlines()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "--preset: missing; presets: folder, shapes"),
        (["--preset=folders"], "nearest: folder"),
        (["--preset=folder"], "data.images: found ''"),
        (["--preset=folder", "--set=data.mask=x"], "nearest: data.masks"),
        (["--preset=folder", "--outt=x"], "Unknown command line flag 'outt'"),
        (["GOOD", "--out=FILE"], "is a file; name a directory"),
        (["GOOD", "--set=data.binary_masks=true"], "data.binary_masks: found 'true' with 3 names"),
        (["GOOD", "--set=data.palette=FILE"], "data.palette: "),
        (["GOOD", "--set=data.images=nowhere"], "data.images: nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line(root: Path, flags: list[str], part: str) -> None:
    given = [flag.replace("FILE", str(root / "classes.txt")) for flag in flags if flag != "GOOD"]
    done = run_check(*(flags_for(root) if "GOOD" in flags else []), *given)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert part in done.stderr
