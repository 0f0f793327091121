"""The report of a run: its numbers against evaluation and numpy, its page with and without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pseudoseg_tf import config_io
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.report_page import write_report
from pseudoseg_tf.run_report import ReportedRun, _on_image, open_runs, short_names
from tests.browser import look_at
from tests.html_page import Page
from tests.tiny import CLASS_NAMES, SIZES, STEP, make_run


def with_records(run_dir: str) -> str:
    """Adds the lines that training would have written."""
    config = config_io.load(run_dir)
    lines = [{"step": step, "miou": 0.1 * step, "pixel_accuracy": 0.5, "ece": 0.3} for step in (3, STEP)]
    (Path(run_dir) / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses = {"loss/total": 2.0, "loss/supervised": 1.5, "loss/decay": 0.0}
    known = {} if config.train.mode == "supervised" else {"pseudo/pixel_accuracy": 0.25, "pseudo/ece": 0.125}
    lines = [
        {"step": step, **losses, **known, "peak_memory_mb": 1500, "seconds_per_step": 0.5}
        for step in (3, STEP)
    ]
    (Path(run_dir) / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    return [
        with_records(make_run(root / "ours", mode="unlabeled")),
        with_records(make_run(root / "baseline", eval_size=(49, 49))),
    ]


@pytest.fixture(scope="module")
def page_path(run_dirs: list[str]) -> Path:
    return write_report(run_dirs, images=2)


@pytest.fixture(scope="module")
def baseline(run_dirs: list[str]) -> ReportedRun:
    return open_runs(run_dirs[1:], "last")[0]


def confusion_of(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """By counting pixel by pixel."""
    counts = np.zeros([len(CLASS_NAMES)] * 2, np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != IGNORE_LABEL:
            counts[label, prediction] += 1
    return counts


def mean_iou(counts: np.ndarray) -> float:
    both = np.diag(counts)
    return float(
        np.mean([k / u for k, u in zip(both, counts.sum(0) + counts.sum(1) - both, strict=True) if u])
    )


def test_scores_by_counting(baseline: ReportedRun) -> None:
    scored = baseline.score()
    explained = baseline.explain(range(len(SIZES)))
    total = np.zeros_like(scored.confusion)
    for each, size, miou in zip(explained, SIZES, scored.image_miou, strict=True):
        assert each.image.shape == (*size, 3) and each.labels.shape == each.prediction.shape == size
        assert each.cam is None and each.pseudo_label is None
        counts = confusion_of(each.labels, each.prediction)
        assert miou == pytest.approx(mean_iou(counts), rel=1e-12)
        total += counts
    np.testing.assert_array_equal(scored.confusion, total)
    assert scored.summary["miou"] == pytest.approx(mean_iou(total), rel=1e-12)
    assert scored.summary["pixel_accuracy"] == np.trace(total) / total.sum()
    assert scored.reliability.pixels.sum() == total.sum()
    assert scored.summary["ece"] == scored.reliability.ece


@pytest.mark.slow
def test_maps_of_a_run_with_self_attention(run_dirs: list[str]) -> None:
    (run,) = open_runs(run_dirs[:1], "best")
    (each,) = run.explain([2])
    assert each.cam is not None and each.cam.shape == (*SIZES[2], len(CLASS_NAMES) - 1)
    assert each.cam.min() >= 0 and each.cam.max() <= 1
    for labels in (each.sgc, each.decoder, each.pseudo_label):
        assert labels is not None and labels.dtype == np.uint8 and labels.shape == SIZES[2]


def test_coarse_cells_lie_on_the_image() -> None:
    cells = np.array([[0, 1, 2], [3, 4, 5]])
    # Corners aligned on a canvas of 3 x 5: columns 0, 2, 4 and rows 0, 2 are cells; halves go to the even one.
    expected = [[0, 0, 1, 2], [0, 0, 1, 2], [3, 3, 4, 5]]
    np.testing.assert_array_equal(_on_image(cells, (3, 5), (3, 4)), expected)


def test_the_page_without_a_browser(run_dirs: list[str], page_path: Path) -> None:
    assert page_path == Path(run_dirs[0]) / "report.html"
    page = Page(page_path)
    headings = ["Result", "What was run", "Curves", "Classes", "Confusion", "Calibration", "Pictures"]
    for heading in [*headings, "Best images", "Worst images", "Data", "Cost"]:
        assert heading in page.text
    # Two rows of eight, and the four best and the four worst of four.
    assert len(page.images) == 2 * 8 + 8 * 4
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "train.mode" in page.cells and "data.eval_size" in page.cells
    row = page.cells.index("unlabeled")
    assert page.cells[row + 1 : row + 5] == ["70.00", "70.00", str(STEP), str(STEP)]
    # 8 + 8 images in half a second.
    assert "32" in page.cells and "1,500" in page.cells


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_in_a_browser(page_path: Path, tmp_path: Path, width: int) -> None:
    seen = look_at(page_path, tmp_path, width)
    assert seen["errors"] == [] and seen["missing"] == [] and seen["pictures"] == 48
    # Nothing but what scrolls by itself is wider than the window.
    assert seen["window"] == width and seen["width"] == 0
    ious = next(c for columns in seen["tables"] for c in columns if c["name"].startswith("IoU of "))
    values = [float(value) for value in ious["before"]]
    assert [float(value) for value in ious["once"]] == sorted(values, reverse=True)
    assert [float(value) for value in ious["twice"]] == sorted(values)


def test_mistakes_are_named(run_dirs: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a directory; name the file to write, such as .*report\.html$"):
        write_report(run_dirs, out=tmp_path)
    silent = make_run(tmp_path / "silent")
    with pytest.raises(UserError, match=r"run: no evaluation in history\.jsonl yet; let the run come so far"):
        write_report([silent])
    with_records(silent)
    (tmp_path / "silent/data/val.txt").write_text("1\n2\n")
    with pytest.raises(UserError, match=r"--compare: .*silent/run has other classes or validation images"):
        write_report([run_dirs[0], silent])
    (Path(silent) / "history.jsonl").write_text('{"step": 3')
    with pytest.raises(UserError, match=r"history\.jsonl: damaged"):
        write_report([silent])
    assert not list(Path(silent).glob("*.html"))


def test_names_of_runs() -> None:
    assert short_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert short_names(["x/a", "y/a", "b"]) == ["x/a", "y/a", "b"]
