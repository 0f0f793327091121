"""The calibration study: each map against numpy, its program, and the diagrams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.calibration import calibrate, variants
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.config import PseudoConfig
from pseudoseg_tf.data.geometry import padded_size
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.inference import read_info
from pseudoseg_tf.metrics import Reliability, intersection_over_union
from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.pseudo_label import make_pseudo_label
from pseudoseg_tf.reliability_diagram import save_reliability_diagrams
from tests.tiny import CLASS_NAMES, SIZES, STEP, make_run, random_images, random_labels

ROOT = Path(__file__).resolve().parents[1]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sharp(p: np.ndarray, temperature: float) -> np.ndarray:
    powered = p ** (1 / temperature)
    return powered / powered.sum(-1, keepdims=True)


def maps_in_numpy(
    decoder: np.ndarray, sgc: np.ndarray, gamma: float, temperature: float
) -> dict[str, np.ndarray]:
    """What the names say, of one batch."""
    root = np.sqrt((decoder**2 + sgc**2).mean() / 2 + 1e-8)
    p, m, p_norm, m_norm = map(softmax, (decoder, sgc, decoder / root, sgc / root))
    fusion = gamma * p_norm + (1 - gamma) * m_norm
    return {
        "decoder": p,
        "decoder, sharpened": sharp(p, temperature),
        "decoder, Norm": p_norm,
        "SGC": m,
        "SGC, sharpened": sharp(m, temperature),
        "SGC, Norm": m_norm,
        "fusion without Norm": gamma * p + (1 - gamma) * m,
        "fusion": fusion,
        "fusion, sharpened": sharp(fusion, temperature),
        "fusion, hard": np.eye(decoder.shape[-1])[fusion.argmax(-1)],
    }


def test_variants_are_what_their_names_say() -> None:
    random = np.random.default_rng(0)
    decoder, sgc = random.normal(0, 3, [2, 4, 5, 3]), random.normal(0, 1, [2, 4, 5, 3])
    pseudo = PseudoConfig(gamma=0.3, temperature=0.4)
    expected = maps_in_numpy(decoder, sgc, 0.3, 0.4)
    found = variants(pseudo, with_sgc=True)
    assert found.keys() == expected.keys()
    logits = tf.constant(decoder, tf.float32), tf.constant(sgc, tf.float32)
    for name, options in found.items():
        np.testing.assert_allclose(make_pseudo_label(*logits, **options)[0], expected[name], atol=3e-6)

    alone = variants(pseudo, with_sgc=False)
    assert list(alone) == ["decoder", "decoder, sharpened", "decoder, hard"]
    hard = make_pseudo_label(*logits, **alone["decoder, hard"])[0]
    np.testing.assert_array_equal(hard, np.eye(3)[decoder.argmax(-1)])


def expected_scores(run_dir: str, given: bool) -> dict[str, dict[str, float]]:
    """One image after another through the parts of the network, the rest in numpy."""
    config = config_io.load(run_dir)
    model = create_model(config, read_info(Path(run_dir, "dataset.json")))
    restore_model(run_dir, "last", model)
    pixels: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for index, size in enumerate(SIZES, 1):
        canvas = tuple(padded_size(side, 0) for side in size)
        border = [(0, canvas[0] - size[0]), (0, canvas[1] - size[1])]
        image = np.pad(random_images(*size, seed=index), [*border, (0, 0)])[np.newaxis].astype(np.float32)
        labels = np.pad(random_labels(*size, seed=index), border, constant_values=IGNORE_LABEL)
        valid = np.pad(np.ones(size, np.float32), border)[np.newaxis]
        end_points = model.features(model.normalize(image, valid), training=False)
        decoder = model.decode(end_points, training=False)
        logits, weights = model.classify(end_points)
        predicted = (logits.numpy() >= 0).astype(np.float32)
        present = np.array([[(labels == k).any() for k in range(1, len(CLASS_NAMES))]], np.float32)
        cam = model.grad_cam(end_points, weights, present if given else predicted)
        rows, columns = (
            np.arange(side) * full // side for side, full in zip(decoder.shape[1:3], canvas, strict=True)
        )
        sgc = model.sgc(end_points, cam, valid[:, rows][:, :, columns], training=False)
        sgc = resize_align_corners(sgc, decoder.shape[1:3])
        seen = labels[rows][:, columns]
        kept = seen != IGNORE_LABEL
        double = decoder.numpy().astype(np.float64), sgc.numpy().astype(np.float64)
        for name, probabilities in maps_in_numpy(
            *double, config.pseudo.gamma, config.pseudo.temperature
        ).items():
            each = probabilities[0][kept]
            pixels.setdefault(name, []).append((seen[kept], each.argmax(-1), each.max(-1)))
    return {name: scores_of(*map(np.concatenate, zip(*each, strict=True))) for name, each in pixels.items()}


def scores_of(labels: np.ndarray, predictions: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = np.bincount(bins, (labels == predictions) - confidence, 15)
    confusion = np.zeros([len(CLASS_NAMES)] * 2, np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    return {
        "ece": np.abs(gaps).sum() / len(labels),
        "pixel_accuracy": (labels == predictions).mean(),
        "mean_confidence": confidence.mean(),
        "miou": np.nanmean(intersection_over_union(confusion)),
        "pixels": len(labels),
    }


@pytest.mark.parametrize(
    ("mode", "image_labels", "used"),
    [
        ("unlabeled", None, "predicted"),
        pytest.param("unlabeled", "given", "given", marks=pytest.mark.slow),
        pytest.param("weakly", None, "given", marks=pytest.mark.slow),
    ],
)
def test_calibrate_equals_a_loop_over_images(mode: str, image_labels: Any, used: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, mode=mode)
    result = calibrate(run_dir, "best", image_labels=image_labels)
    assert result["image_labels"] == used
    assert (result["step"], result["images"]) == (STEP, len(SIZES))
    assert result["checkpoint"].endswith(f"best/ckpt-{STEP}")
    expected = expected_scores(run_dir, given=used == "given")
    for name, wanted in expected.items():
        pixels = wanted.pop("pixels")
        found = {key: result["maps"][name][key] for key in wanted}
        assert found == pytest.approx(wanted, abs=1e-5), name
        assert sum(each["pixels"] for each in result["maps"][name]["bins"]) == pixels
    assert result["maps"].keys() == expected.keys()
    assert json.loads(Path(run_dir, "calibration/calibration.json").read_text()) == result
    assert sorted(path.name for path in Path(run_dir, "calibration").iterdir()) == [
        "calibration.json",
        "reliability.png",
    ]


def test_a_canvas_of_several_images_scores_the_same_pixels(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, eval_size=(49, 49), mode="unlabeled")
    result = calibrate(run_dir)
    counted = {
        name: sum(each["pixels"] for each in scores["bins"]) for name, scores in result["maps"].items()
    }
    labeled = 0
    for index, size in enumerate(SIZES, 1):
        rows, columns = (np.arange(13) * 49 // 13 for _ in range(2))
        labels = random_labels(*size, seed=index)[rows[rows < size[0]]][:, columns[columns < size[1]]]
        labeled += int((labels != IGNORE_LABEL).sum())
    assert set(counted.values()) == {labeled}


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("calibrate"))


def run_program(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pseudoseg_tf.cli.calibrate", *flags]
    # The programs choose TensorFlow's log level themselves.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_program_on_a_supervised_run_compares_the_decoder_alone(supervised: str, tmp_path: Path) -> None:
    done = run_program(f"--run_dir={supervised}", f"--out={tmp_path / 'study'}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "The self-attention (SGC) of this run was never trained: only the decoder is compared."
    )
    result = json.loads((tmp_path / "study/calibration.json").read_text())
    assert result["image_labels"] is None
    scores = result["maps"]["decoder, hard"]
    assert scores["mean_confidence"] == 1
    assert scores["ece"] == pytest.approx(1 - scores["pixel_accuracy"])
    # Sharpening changes the confidence alone.
    plain, sharpened = result["maps"]["decoder"], result["maps"]["decoder, sharpened"]
    assert sharpened["miou"] == plain["miou"] and sharpened["mean_confidence"] > plain["mean_confidence"]
    assert lines[1].split() == ["map", "ECE", "accuracy", "confidence", "mIoU"]
    assert lines[2].split()[1:] == [
        f"{100 * plain[key]:.2f}" for key in ("ece", "pixel_accuracy", "mean_confidence", "miou")
    ]
    assert not Path(supervised, "calibration").exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--run_dir: missing"]),
        (["--run_dir=RUN", "--image_labels=true"], ["image_labels", "predicted"]),
        (["--run_dir=DIR"], ["no config.json"]),
        (["--run_dir=RUN", "--checkpoint=ckpt-1"], ["'ckpt-1'", "last, best"]),
        (["--run_dir=RUN", "--out=RUN/config.json"], ["config.json: is a file; name a directory"]),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], parts: list[str], supervised: str, tmp_path: Path) -> None:
    done = run_program(*(flag.replace("RUN", supervised).replace("DIR", str(tmp_path)) for flag in flags))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert not Path(supervised, "calibration").exists()


def test_diagram_shows_the_accuracy_of_each_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.zeros([15, 3])
    sums[8], sums[14] = [3, 1, 1.75], [1, 1, 0.95]
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    path = tmp_path / "reliability.png"
    save_reliability_diagrams(path, {"a": Reliability(sums), "b": Reliability(sums[::-1])})
    assert [path] == list(tmp_path.iterdir())
    with Image.open(path) as picture:
        assert picture.size[0] == 660
    first, second = figures[0].axes
    assert (first.get_title(), second.get_title()) == ("a\nECE 20.00", "b\nECE 20.00")
    heights = [bar.get_height() for bar in first.patches[:15]]
    np.testing.assert_allclose([heights[8], heights[14], heights[0]], [1 / 3, 1, np.nan])
    assert first.patches[8].get_x() == pytest.approx(8 / 15)


def test_diagram_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent/a\.png: cannot be written \(No such file"):
        save_reliability_diagrams(tmp_path / "absent/a.png", {"a": Reliability(np.ones([15, 3]))})
