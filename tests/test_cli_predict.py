"""pseudoseg-evaluate, pseudoseg-export and pseudoseg-predict as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf.cli.predict import find_images, left_out, output_names
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.inference import Predictor
from pseudoseg_tf.visualize import overlay, save_image
from tests.tiny import CLASS_NAMES, STEP, make_run, random_images

ROOT = Path(__file__).resolve().parents[1]


def run(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"pseudoseg_tf.cli.{program}", *flags]
    # Errors of the program alone: on a machine without a GPU TensorFlow logs one of its own.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        ("evaluate", [], "--run_dir: missing"),
        ("export", ["--run_dir=x"], "--out: missing"),
        ("evaluate", ["--run_dir=x", "--scales="], "--scales: found '', must be one or more factors"),
        ("evaluate", ["--run_dir=x", "--scales=1,big"], "--scales: found '1,big', must be finite numbers"),
        ("evaluate", ["--run_dir=x", "--scales=1,0"], "--scales: found '1,0', must be one or more factors"),
        ("export", ["--run_dir=x", "--out=x", "--scales=-1"], "--scales: found '-1', must be one or more"),
        ("export", ["--run_dir=x", "--out=x", "--scales=5"], "--scales: found '5', must be one or more"),
        ("export", ["--run_dir=x", "--out=x", "--scales"], "Missing value for flag --scales"),
        ("evaluate", ["--run_dir=x", "--flip=2"], "flag --flip=2: "),
        (
            "evaluate",
            ["--run_dir=x", "--window=64"],
            "--window: found '64', must be 0,0 (no windows) or 16k+1",
        ),
        ("export", ["--run_dir=x", "--out=x", "--overlap=1"], "--overlap: found '1', must be from 0 to 0.95"),
        ("export", ["--run_dir=x", "--out=x", "--flip=-1"], "flag --flip=-1: "),
        (
            "export",
            ["--run_dir=x", "--out=x", "--precision=half"],
            "--precision: found 'half', must be one of float32,",
        ),
        ("predict", ["--model=x"], "--images: missing"),
        ("predict", ["--model=x", "--images=absent", "--out=x"], "--images: absent does not exist"),
        (
            "predict",
            ["--model=x", "--images=tests", "--out=x"],
            "--images: tests holds no .jpg,",
        ),
    ],
)
def test_a_mistake_is_one_line(program: str, flags: list[str], message: str) -> None:
    done = run(program, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_from_a_run_to_pictures(tmp_path: Path) -> None:
    run_dir, model = make_run(tmp_path), tmp_path / "model"

    done = run("evaluate", f"--run_dir={run_dir}", "--checkpoint=best", "--scales=0.5,1", "--flip")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    result = json.loads(Path(run_dir, "metrics.json").read_text())
    assert result["scales"] == [0.5, 1.0] and result["flip"] is True
    assert [line.split()[0] for line in lines[1:-1]] == list(CLASS_NAMES)
    assert lines[1].split()[1] == f"{100 * result['iou']['background']:.2f}"
    assert lines[-1].startswith(f"mIoU {100 * result['miou']:.2f}  ") and f"step {STEP})" in lines[-1]

    done = run("export", f"--run_dir={run_dir}", f"--out={model}", "--scales=0.5", "--flip", "--compare=2")
    assert done.returncode == 0, done.stderr
    written, compared = done.stdout.splitlines()
    assert written == f"{model}: saved_model of {run_dir}/checkpoints/best/ckpt-{STEP}"
    assert compared.startswith("compared with evaluation: 2 images, largest probability difference ")

    images, out = tmp_path / "images", tmp_path / "new" / "out"
    images.mkdir()
    pictures = dict(zip(["a.jpg", "a.png", "b.JPEG"], random_images(3, 20, 30), strict=True))
    for name, picture in pictures.items():
        save_image(images / name, picture)
    (images / "bad.png").write_text("no image")
    (images / "notes.txt").write_text("no image either, and not named like one")
    predict = [f"--model={model}", f"--images={images}", f"--out={out}", "--batch=2", "--probabilities"]
    done = run("predict", *predict)
    assert done.returncode == 2 and done.stdout == ""
    # A slow machine also gets lines of progress.
    others, skipped, error = [line for line in done.stderr.splitlines() if not line.startswith("predict ")]
    assert others == f"left out: notes.txt; read are .jpg, .jpeg, .png files directly in {images}"
    assert skipped.startswith(f"skipped: image {images / 'bad.png'}: neither a JPEG nor a PNG")
    assert error == f"error: 1 of 4 images could not be predicted, see above; {out} has the others"
    stems = ["a_jpg", "a_png", "b"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["predictions.json"]
        + [f"{stem}{suffix}" for stem in stems for suffix in (".png", "_overlay.jpg", ".npz")]
    )

    # One picture is taken away, the bad one mended: the other two stay as they are.
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "b.png").unlink()
    save_image(images / "bad.png", random_images(9, 12))
    done = run("predict", *predict)
    assert done.returncode == 0, done.stderr
    first, there, speed = done.stdout.splitlines()
    assert first.endswith("class ids and overlays of 4 images") and there == "2 of them were there already"
    assert speed.endswith(" images/s")
    renewed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != before.get(path.name)}
    assert renewed == {
        "predictions.json",
        *(f"{stem}{suffix}" for stem in ("b", "bad") for suffix in (".png", "_overlay.jpg", ".npz")),
    }
    summary = json.loads((out / "predictions.json").read_text())
    assert sorted(summary["images"]) == ["a_jpg", "a_png", "b", "bad"]

    predictor = Predictor(model)
    labels = predictor(pictures["a.png"]).labels
    assert summary["model"] == predictor.fingerprint
    counts = {name: area["pixels"] for name, area in summary["images"]["a_png"]["classes"].items()}
    assert counts == {CLASS_NAMES[k]: int((labels == k).sum()) for k in np.unique(labels)}
    with np.load(out / "a_png.npz", allow_pickle=False) as written:
        np.testing.assert_allclose(
            written["probabilities"], predictor(pictures["a.png"]).probabilities, atol=1e-3
        )
    assert len(np.unique(labels)) > 1
    mirrored = predictor(pictures["a.png"][:, ::-1])
    np.testing.assert_array_equal(mirrored.labels, labels[:, ::-1])
    with Image.open(out / "a_png.png") as written:
        assert written.mode == "P"
        np.testing.assert_array_equal(np.asarray(written), labels)
    with Image.open(out / "a_png_overlay.jpg") as written:
        shown = overlay(pictures["a.png"], labels, predictor.info.palette).astype(float)
        assert np.abs(np.asarray(written) - shown).mean() < np.abs(pictures["a.png"] - shown).mean()

    done = run("predict", f"--model={model}", f"--images={images / 'a.jpg'}", f"--out={images}")
    assert done.returncode == 2
    assert "holds the images themselves" in done.stderr
    assert len(list(images.iterdir())) == 5


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.txt", "._a.jpeg", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert left_out(tmp_path) == ["c.txt", "folder.png"]
    assert left_out(tmp_path / "c.txt") == left_out(tmp_path / "folder.png") == []
    assert [path.name for path in find_images(tmp_path)] == ["a.jpeg", "b.PNG"]
    assert find_images(tmp_path / "c.txt") == [tmp_path / "c.txt"]
    with pytest.raises(UserError, match="holds no"):
        find_images(tmp_path / "folder.png")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a_jpg", "a_png", "b"]),
        # Distinct on file systems that ignore case, and from stems that are taken already.
        (["A.JPG", "a.jpg"], ["A_jpg", "a_jpg_2"]),
        (["a.jpg", "a.png", "a_jpg.png", "a_png.jpg", "a_png.png"], None),
        (["a.b.jpg", "a.jpg"], ["a.b", "a"]),
    ],
)
def test_output_names_are_distinct(files: list[str], names: list[str] | None) -> None:
    found = output_names([Path("folder", file) for file in files])
    assert len({name.lower() for name in found}) == len(files)
    if names is not None:
        assert found == names
