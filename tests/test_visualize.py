"""Pictures: exact colors, files that read back, and where things are in the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf import visualize
from pseudoseg_tf.curves import chart
from pseudoseg_tf.data.specs import IGNORE_LABEL, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.metrics import CALIBRATION_BINS, Reliability
from pseudoseg_tf.reliability_diagram import save_reliability_diagrams

PALETTE = ((0, 0, 0), (200, 0, 0), (0, 100, 0))
NAMES = ("background", "cat", "dog")
LABELS = np.array([[0, 1], [2, IGNORE_LABEL]], np.uint8)


def test_colorize() -> None:
    pale = (224, 224, 192)
    np.testing.assert_array_equal(
        visualize.colorize(LABELS, PALETTE), [[PALETTE[0], PALETTE[1]], [PALETTE[2], pale]]
    )


def test_overlay_tints_objects_only() -> None:
    image = np.full([2, 2, 3], 100, np.uint8)
    expected = [[(100, 100, 100), (125, 75, 75)], [(75, 100, 75), (100, 100, 100)]]
    np.testing.assert_array_equal(visualize.overlay(image, LABELS, PALETTE, alpha=0.25), expected)
    assert visualize.overlay(image, LABELS, PALETTE).dtype == np.uint8


def test_palette_png_holds_ids_and_shows_colors(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    visualize.save_palette_png(tmp_path / "a.png", labels, voc_palette(21))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), labels)
        np.testing.assert_array_equal(
            np.asarray(picture.convert("RGB")), visualize.colorize(labels, voc_palette(21))
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_save_image_writes_what_the_name_says(tmp_path: Path, name: str) -> None:
    image = np.full([8, 16, 3], (10, 200, 90), np.uint8)
    visualize.save_image(tmp_path / name, image)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == {"a.png": "PNG", "a.jpg": "JPEG"}[name]
        np.testing.assert_allclose(np.asarray(picture), image, atol=2)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    visualize.save_image(path, np.zeros([2, 2, 3], np.uint8))
    before = path.read_bytes()

    def half_written(self: Image.Image, target: Path, **options: object) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(UserError, match=r"a\.png: cannot be written \(no space left\)"):
        visualize.save_image(path, np.ones([2, 2, 3], np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def panel(batch: int = 2, **changes: np.ndarray) -> np.ndarray:
    """Black views, cold CAM, everything background, unless changed."""
    arrays: dict[str, Any] = {
        "images": [np.zeros([32, 64, 3], np.uint8)] * batch,
        "weak": np.zeros([batch, 32, 64, 3], np.uint8),
        "strong": np.zeros([batch, 32, 64, 3], np.uint8),
        "cam": np.zeros([batch, 8, 16, 2]),
        "sgc": np.tile([1.0, 0, 0], [batch, 8, 16, 1]),
        "decoder": np.tile([1.0, 0, 0], [batch, 8, 16, 1]),
        "pseudo": np.tile([1.0, 0, 0], [batch, 8, 16, 1]),
        "labels": np.zeros([batch, 32, 64], np.uint8),
    }
    return visualize.pseudo_label_panel(
        **(arrays | changes), palette=PALETTE, class_names=NAMES, tile=64, examples=3
    )


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = 20 + row * (32 + 4), 4 + column * (64 + 4)
    return picture[top : top + 32, left : left + 64]


def test_panel_puts_each_stage_into_its_column() -> None:
    weak = np.zeros([2, 32, 64, 3], np.uint8)
    weak[1] = (1, 2, 3)
    strong = np.full([2, 32, 64, 3], 9, np.uint8)
    cam = np.zeros([2, 8, 16, 2])
    cam[0, ..., 1] = 1
    cat, dog = np.tile([0.0, 1, 0], [2, 8, 16, 1]), np.tile([0.0, 1, 2], [2, 8, 16, 1])
    half = cat.copy()
    half[:, :4] = (3, 1, 1)
    labels = np.full([2, 32, 64], IGNORE_LABEL, np.uint8)
    # Higher than the views: the whole image between white margins.
    images = [np.full([64, 32, 3], 77, np.uint8), np.zeros([16, 32, 3], np.uint8)]
    picture = panel(
        images=images, weak=weak, strong=strong, cam=cam, sgc=cat, decoder=dog, pseudo=half, labels=labels
    )

    assert picture.dtype == np.uint8 and picture.shape[1] == 4 + 8 * (64 + 4)
    framed = tile(picture, 0, 0)
    assert (framed[:, 26:38] == 77).all() and (framed[:, :22] == 255).all() and (framed[:, -22:] == 255).all()
    assert (tile(picture, 1, 0) == 0).all()
    assert (tile(picture, 0, 1) == 0).all() and (tile(picture, 1, 1) == (1, 2, 3)).all()
    assert (tile(picture, 0, 2) == 9).all()
    assert (tile(picture, 0, 3) == PALETTE[2]).all() and (tile(picture, 1, 3) == 0).all()
    assert (tile(picture, 0, 4) == PALETTE[1]).all()
    assert (tile(picture, 0, 5) == PALETTE[2]).all()
    assert (tile(picture, 0, 6)[:16] == 0).all() and (tile(picture, 0, 6)[16:] == PALETTE[1]).all()
    assert (tile(picture, 1, 7) == (224, 224, 192)).all()
    # Each in a frame, between which there is white.
    assert (
        (picture[19, 3:69] == 211).all() and (picture[52, 3:69] == 211).all() and (picture[53] == 255).all()
    )


def test_class_heat_is_the_color_of_the_best_class_as_bright_as_it_is_sure() -> None:
    cam = np.array([[0.0, 0.0], [0.5, 0.25], [0.5, 1.0]])
    assert visualize.class_heat(cam, PALETTE).tolist() == [[0, 0, 0], [100, 0, 0], [0, 100, 0]]
    everything = visualize.class_heat(cam, PALETTE[1:], background=False)
    assert everything.tolist() == [[0, 0, 0], [100, 0, 0], [0, 100, 0]]


def test_panel_titles_every_column_and_shows_the_classes_that_occur() -> None:
    plain = panel()
    assert all((plain[:20, 4 + k * 68 : 68 + k * 68] < 128).any() for k in range(8))
    labels = np.zeros([2, 32, 64], np.uint8)
    assert not (plain[-20:] == PALETTE[2]).all(-1).any()
    labels[0, 0, 0] = 2
    assert (panel(labels=labels)[-20:] == PALETTE[2]).all(-1).sum() >= 100


def test_panel_has_a_row_for_each_example_up_to_the_limit() -> None:
    heights = [panel(batch).shape[0] for batch in (1, 2, 3, 4)]
    assert np.diff(heights).tolist() == [36, 36, 0]


def test_legend_flows_over_several_lines() -> None:
    palette = voc_palette(20)
    labels = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
    scores = np.eye(20)[labels]
    view = np.zeros([1, 4, 5, 3], np.uint8)
    picture = visualize.pseudo_label_panel(
        images=[view[0]],
        weak=view,
        strong=view,
        cam=scores[..., 1:],
        sgc=scores,
        decoder=scores,
        pseudo=scores,
        labels=labels,
        palette=palette,
        class_names=[f"a long class name {k}" for k in range(20)],
        tile=50,
    )
    legend = picture[20 + 40 + 4 :]
    assert len(legend) > 40 and len(legend) % 20 == 0
    for color in palette[1:]:
        assert (legend == color).all(-1).sum() >= 100


def test_names_with_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    """Of runs and classes, in titles and legends."""
    name = "m$^$ costs $5"
    figure = chart(f"losses of {name}", {name: [(1, 2.0), (2, 3.0)]}, log=True)
    visualize.save_figure(tmp_path / "chart.png", figure)
    assert figure.legends[0].get_texts()[0].get_text() == r"m\$^\$ costs \$5"
    sums = np.zeros((CALIBRATION_BINS, 3))
    sums[-1] = 8.0, 7.0, 7.8
    save_reliability_diagrams(tmp_path / "diagram.png", {name: Reliability(sums)})
    assert (tmp_path / "diagram.png").exists()
